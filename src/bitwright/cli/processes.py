# SPDX-License-Identifier: MIT
"""Commands that torchrun starts several times over."""

from __future__ import annotations

import os

from bitwright.errors import UnknownNameError


def join_processes(device: str | None) -> tuple[bool, str | None]:
    """Meet the processes that torchrun started beside this one, if it did.

    Args:
        device: What the user asked for, or None.

    Returns:
        Whether this is the process that writes files, and the device to compute on: of several GPUs, each process has its own.

    Raises:
        UnknownNameError: If there is no such device here.
    """
    if device is not None:
        _check(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True, device
    from accelerate import PartialState

    from bitwright.processes import meet_again

    on_cpu = device is None or device == "cpu"
    meet_again(on_cpu)
    state = PartialState(cpu=on_cpu)
    return state.is_main_process, None if device is None else str(state.device)


def leave_processes() -> None:
    """Close the connections to the other processes: open ones abort the interpreter's orderly end now and then."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def default_device() -> str | None:
    """Where training computes: on GPUs where there are any."""
    import torch

    return "cuda" if torch.cuda.is_available() else None


def _check(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # PyTorch has one for each reason
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UnknownNameError(
            f"cannot compute on the device '{device}': {reason}. Leave --device out to compute on the processor."
        ) from error
