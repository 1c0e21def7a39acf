"""Selects the device and the floating-point precision; tunes the CPU memory allocator."""

import ctypes
import os
import sys

import torch

from runtime.errors import InputError, first_line

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """Returns the named device; "auto" takes CUDA, else MPS, else the CPU.

    Also makes cuDNN deterministic and, on a CPU, tunes the allocator (`keep_freed_memory`).

    Raises: InputError where the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cpu":
        keep_freed_memory()
    if name.startswith("cuda:") and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(f"--device {name}: under torchrun each process takes its own GPU; give --device cuda")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # set by torchrun
    try:
        torch.backends.cudnn.deterministic = True  # the same seed gives the same numbers
        device = torch.zeros(1, device=name).device
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"--device {name}: other programs hold its memory (nvidia-smi lists them); end one, or give another device"
        ) from error
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available ({first_line(error)}); give --device auto") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for reuse instead of returning it to the system.

    PyTorch allocates every layer's output anew, and mapping fresh pages takes a large part of the time (see "freed
    memory kept" and "default allocator" in `results/benchmark.json`). Does nothing under other C libraries.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt"):
        library.mallopt(-4, 0)  # M_MMAP_MAX: no separate mapping for large blocks
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def release_freed_memory() -> None:
    """Returns to the system, once, what `keep_freed_memory` kept; call it at the end of a memory-hungry phase."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def pick_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Returns the dtype of autocast for `precision` ("fp32", "bf16", "fp16", "auto" or "int8").

    "auto" takes bfloat16 where the hardware multiplies it and float16 on older GPUs; so does "int8", which only the
    frozen backbone uses. A CPU without bfloat16 instructions emulates them at half the speed of float32.
    """
    if precision in DTYPES:
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has("avx512_bf16", "amx_bf16", "bf16") else torch.float32  # the last is Arm's
    return torch.float32


def cpu_has(*names: str) -> bool:
    """Whether the CPU has one of these instruction sets, by PyTorch's names."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in names)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Mixed precision on `device`; disabled for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def pick_workers(device: torch.device, workers: int | None) -> int:
    """Number of workers that decode: as given, else none on a CPU (the network needs its cores), on CUDA all cores."""
    if workers is not None:
        return workers
    cores = os.cpu_count() or 1
    return {"cpu": 0, "cuda": cores}.get(device.type, min(8, cores))  # processes but for CUDA's threads
