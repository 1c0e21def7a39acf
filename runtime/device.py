"""Which device computes, and in which precision."""

import ctypes
import os
import sys

import torch

from runtime.errors import InputError, first_line

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """Returns the device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises: InputError where the device named is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cpu":
        keep_freed_memory()
    if name.startswith("cuda:") and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(f"--device {name}: with torchrun, give --device cuda, and each process takes a GPU of its own")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # torchrun's
    try:
        torch.backends.cudnn.deterministic = True  # the same seed gives the same numbers
        device = torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not to be had here ({first_line(error)}); use --device auto") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of handing it back to the system.

    PyTorch asks anew for the memory of every layer's output, and mapping fresh pages takes a good part of the time (see
    "memory kept" and "PyTorch's memory" in `results/benchmark.json`). Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt"):
        library.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large block
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def release_freed_memory() -> None:
    """Hands back, once, what `keep_freed_memory` kept: for the end of a phase whose memory the next has no use for."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def pick_precision(device: torch.device, name: str = "auto") -> torch.dtype:
    """Returns the dtype to compute in: "auto" takes bfloat16 where the hardware multiplies it, fp16 on older GPUs.

    So does "int8", which is a backbone's alone.

    A CPU without bfloat16 instructions emulates it at half the speed of float32, hence the look at the instructions.
    """
    if name in DTYPES:
        return DTYPES[name]
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
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def pick_workers(device: torch.device, workers: int | None) -> int:
    """Processes that decode pictures: none beside a CPU, whose cores the network keeps busy, else up to eight."""
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
