"""`direct`: the field is optimized for the pair from the alignment on; no network, no weights."""

from __future__ import annotations

from .method import Asked, Method, Settings, Solution, Task, field_seconds
from .size import Size


class Direct(Method):
    """The method of the card `direct`."""

    name = "direct"
    refinements = ("field",)
    has_network = False
    repeats = 2
    works_blockwise = True
    across_contrasts = ("mi", "mind")

    def seconds(self, size: Size, settings: Settings) -> dict[str, float]:
        return {"refine": field_seconds(size.fixed, settings)}

    def settings(self, asked: Asked) -> Settings:
        from .field_refinement import field_options

        return field_options(asked)

    def solve(self, task: Task) -> Solution:
        from .deforming import deformed
        from .field_refinement import FieldOptions

        assert isinstance(task.settings, FieldOptions)
        report = task.stages.begin("refine")
        fields, warnings = deformed(task.fixed, task.moving, task.alignment, task.settings, report)
        return Solution(task.alignment, fields, warnings=tuple(warnings))
