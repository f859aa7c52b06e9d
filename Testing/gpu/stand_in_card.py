"""A stand-in for a CUDA device, or for Apple's: tensors that say they lie on it, and numbers that are worked out on the CPU.

What a real card refuses is refused: tensors of both devices in one operation (but for numbers without an axis, and indices),
numpy arrays of tensors on the card, more memory than there is, and on Apple's device numbers of double precision. So the code for a card runs where there is none. How fast a
card is, which kernels it takes and how they round, only a real one shows.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from RegistrationNetLib import devices

DOUBLE, HALF = (torch.float64, torch.complex128), (torch.float16, torch.bfloat16)
LINEAR = 0  # torch's number for it
MAKERS = (
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "tensor", "triu_indices", "zeros",
)  # fmt: skip
# The only operations of a real card that take tensors of both devices.
BETWEEN_DEVICES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class Memory:
    """What torch's allocator would count, in bytes; `limit` is what there is."""

    def __init__(self) -> None:
        self.live: dict[int, list[int]] = {}  # by storage: how many tensors have it, and its size
        self.allocated = 0
        self.peak = 0
        self.limit = 2**40

    def take(self, tensor: CardTensor) -> None:
        """Count the storage of `tensor`, once for all its views.

        Raises:
            torch.cuda.OutOfMemoryError: there is not so much memory.
        """
        storage = tensor.inner.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key not in self.live and self.allocated + size > self.limit:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes (of a stand-in).")
        if key not in self.live:
            self.live[key] = [0, size]
            self.allocated += size
        self.live[key][0] += 1
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(tensor, self._leave, key)

    def _leave(self, key: int) -> None:
        self.live[key][0] -= 1
        if not self.live[key][0]:
            self.allocated -= self.live.pop(key)[1]


MEMORY = Memory()


class CardTensor(Tensor):
    """A tensor on the stand-in; `inner` holds its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> CardTensor:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )

    kind = "cuda"  # or "mps"
    used: ClassVar[set[Any]] = set()  # the operators that have run on the card

    def __init__(self, inner: Tensor) -> None:
        if self.kind == "mps" and inner.dtype in DOUBLE:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Use float32."
            )
        self.inner = inner
        MEMORY.take(self)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        args = _with_zeros_of_autograd(args)
        _check_devices(func, [*tree_leaves(args), *tree_leaves(kwargs)])
        cls.used.add(func)
        if cls.kind == "mps":
            _check_apple(func, args)
        out = func(*tree_map(_without_card, args), **tree_map(_without_card, kwargs))
        if func._schema.is_mutable and isinstance(out, Tensor):
            return kwargs.get("out", args[0])
        return tree_map(lambda one: cls(one) if isinstance(one, Tensor) else one, out)

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind, 0)

    @property
    def is_cuda(self) -> bool:
        return self.kind == "cuda"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.inner.detach().tolist()

    def new_tensor(self, values: Any, **options: Any) -> Tensor:
        return CardTensor(torch.tensor(values, dtype=options.get("dtype", self.dtype)))

    def __repr__(self, **_: Any) -> str:
        return f"CardTensor({self.inner!r})"


class _ToCard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = tensor.dtype
        return CardTensor(tensor.detach().to(dtype, copy=True))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream.inner.to(ctx.dtype), None  # type: ignore[attr-defined]


class _FromCard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: CardTensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = tensor.dtype
        return tensor.inner.detach().to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return CardTensor(upstream.to(ctx.dtype)), None


def _without_card(one: Any) -> Any:
    return (
        one.inner
        if isinstance(one, CardTensor)
        else torch.device("cpu")
        if isinstance(one, torch.device) and _is_card(one)
        else one
    )


def _check_devices(func: Any, arguments: list[Any]) -> None:
    tensors = [one for one in arguments if isinstance(one, Tensor)]
    if func in INDEXING:
        tensors = tensors[:1] + [one for one in tensors[1:] if one.is_floating_point()]
    strangers = [one for one in tensors if not isinstance(one, CardTensor) and one.dim()]
    if strangers and func not in BETWEEN_DEVICES:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu! ({func})")


def _check_apple(func: Any, arguments: Any) -> None:
    """What an operator does not do there, though there is a kernel for it: torch's own tests name these cases."""
    if func is torch.ops.aten.grid_sampler_3d.default and arguments[2] != LINEAR:
        raise RuntimeError("grid_sampler_3d: Unsupported Nearest interpolation")
    if func is torch.ops.aten.convolution.default and arguments[6] and arguments[0].dim() == 5 and arguments[0].dtype in HALF:
        raise RuntimeError("ConvTranspose 3D with BF16 or FP16 types is not supported on MPS")


def _with_zeros_of_autograd(args: Any) -> Any:
    """In a backward pass torch makes zeros for gradients that nobody has given: on a real card there, here on the CPU."""
    if torch._C._current_autograd_node() is None:
        return args

    def on_card(one: Any) -> Any:
        is_made = isinstance(one, Tensor) and not isinstance(one, CardTensor) and not one.any()
        return CardTensor(one) if is_made else one

    return tree_map(on_card, args)


def _is_card(device: Any) -> bool:
    return device is not None and torch.device(device).type == CardTensor.kind


def _making(maker: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.zeros` and its like, which may make their tensor on the card."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if isinstance(args[0], CardTensor) or not _is_card(device):
            return maker(*args, **kwargs) if device is None else maker(*args, device=device, **kwargs)
        needs_gradient = kwargs.pop("requires_grad", False)
        return CardTensor(maker(*args, device="cpu", **kwargs)).requires_grad_(needs_gradient)

    return made


def _to(before: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`Tensor.to`, which may lead to the card or away from it."""

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        like = next((one for one in args if isinstance(one, Tensor)), None)
        named = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.device | str)]
        device = like.device if like is not None else torch.device(named[0]) if named else self.device
        types = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.dtype)]
        dtype = like.dtype if like is not None else types[0] if types else self.dtype
        if _is_card(device) and not isinstance(self, CardTensor):
            return _ToCard.apply(self, dtype)  # type: ignore[no-any-return, no-untyped-call]
        if not _is_card(device) and isinstance(self, CardTensor):
            return _FromCard.apply(self, dtype)  # type: ignore[no-any-return, no-untyped-call]
        return before(self, dtype) if isinstance(self, CardTensor) else before(self, *args, **kwargs)

    return to


@contextmanager
def stand_in_card(kind: str = "cuda") -> Any:
    """Within, torch has one device of the kind "cuda" or "mps", which is the stand-in; gives its `Memory`."""
    mixed_precision = torch.autocast
    moved = _to(Tensor.to)
    patches = [mock.patch.object(torch, name, _making(getattr(torch, name))) for name in MAKERS]
    patches += [
        mock.patch.object(Tensor, "to", moved),
        mock.patch.object(Tensor, "cpu", lambda self: moved(self, "cpu")),
        mock.patch.object(Tensor, "cuda", lambda self: moved(self, "cuda")),
        mock.patch.object(torch, "autocast", lambda _, **options: mixed_precision("cpu", **options)),
        mock.patch.object(CardTensor, "kind", kind),
        mock.patch.object(CardTensor, "used", set()),
        mock.patch.object(torch.backends.mps, "is_available", return_value=kind == "mps"),
        mock.patch.object(devices, "_has_operators_on_mps", return_value=True),
        mock.patch.multiple(
            torch.cuda,
            is_available=lambda: kind == "cuda",
            device_count=lambda: 1,
            empty_cache=lambda: None,
            synchronize=lambda *_: None,
            mem_get_info=lambda *_: (MEMORY.limit - MEMORY.allocated, MEMORY.limit),
            memory_allocated=lambda *_: MEMORY.allocated,
            memory_reserved=lambda *_: MEMORY.allocated,
            max_memory_allocated=lambda *_: MEMORY.peak,
            reset_peak_memory_stats=lambda *_: setattr(MEMORY, "peak", MEMORY.allocated),
        ),
    ]
    patches.append(mock.patch.object(torch.__future__, "_overwrite_module_params_on_conversion", True))
    for patch in patches:
        patch.start()
    try:
        yield MEMORY
    finally:
        for patch in reversed(patches):
            patch.stop()
        MEMORY.limit = 2**40
