"""How far a training of the claims has come, on disk, so that a run that was cut goes on where it was."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from RegistrationNetLib.training.checkpoints import load_checkpoint, save_checkpoint
from RegistrationNetLib.training.learning import LearningOptions
from RegistrationNetLib.training.state import Trainee
from RegistrationNetLib.training.validation import Look


@dataclass
class Course:
    """A training in `folder`: its looks by step, and the processor time it took, that of earlier runs (`seconds_before`) included."""

    folder: Path
    options: LearningOptions
    curve: list[tuple[int, Look]] = field(default_factory=list)
    seconds_before: float = 0.0
    start: float = field(default_factory=time.process_time)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.process_time() - self.start

    def keep(self, trainee: Trainee) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(trainee, self._checkpoint, asdict(self.options))
        looks = [(number, asdict(seen)) for number, seen in self.curve]
        self._notes.write_text(json.dumps({"seconds": self.seconds, "looks": looks}))

    def take_up(self, trainee: Trainee) -> None:
        """Put `trainee` where the last run left it, if there was one."""
        if not self._checkpoint.exists():
            return
        load_checkpoint(trainee, self._checkpoint, asdict(self.options))
        notes = json.loads(self._notes.read_text())
        self.curve = [(number, Look(**seen)) for number, seen in notes["looks"] if number <= trainee.steps]
        self.seconds_before = notes["seconds"]

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def _notes(self) -> Path:
        return self.folder / "notes.json"
