# SPDX-License-Identifier: MIT
"""Work that several processes share: each does some, all get all results, bit for bit those of one process.

Where torch.distributed is initialised (by Accelerate, torchrun and `init_process_group`, or by hand), the estimators of this
package divide their work: every process is given the same network, images and labels, and the same function is called in all
of them. What is divided are whole pieces of work, such as one backward pass of one micro-batch, and they are added up in the
order that one process would have, so that the sums are the same to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Task = TypeVar("Task")
Value = TypeVar("Value")


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are; 0 and 1 without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def meet_again(cpu: bool) -> None:
    """Meet the processes that torchrun started, in a place of their own for each of their lives.

    PyTorch keeps one store for all restarts of a machine's processes, in which those of a new life may find the addresses of the
    former one, and fail to connect. Where it does not, and on several machines, which count lives each for itself, nothing is
    done here: Accelerate meets the others in its own way.

    Args:
        cpu: Whether to compute on processors.
    """
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("GROUP_WORLD_SIZE") == "1"
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if not kept or size == 1 or dist.is_initialized():
        return
    from accelerate import PartialState

    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=False)  # type: ignore[attr-defined]
    own = dist.PrefixStore(f"life {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
    PartialState(cpu=cpu, store=own, rank=int(os.environ["RANK"]), world_size=size)


def in_turns(
    tasks: Sequence[Task], work: Callable[[Task], Tensor], shape: Callable[[Task], tuple[int, ...]]
) -> Iterator[list[tuple[Task, Tensor]]]:
    """Do tasks in order, in each turn as many as there are processes.

    Args:
        tasks: The same ones in the same order in every process.
        work: Does one task; only one process calls it.
        shape: The shape of a task's result, known to all processes beforehand.

    Yields:
        The tasks of a turn with their results, float64 on the CPU, the same in every process.
    """
    rank, size = rank_and_size()
    for start in range(0, len(tasks), size):
        turn = tasks[start : start + size]
        if size == 1:
            yield [(turn[0], work(turn[0]))]
            continue
        shapes = [shape(task) for task in turn]
        counts = [torch.Size(each).numel() for each in shapes]
        # Each fills in its own part of zeros: x + 0 is x, so the sum over processes is a collection.
        results = torch.zeros(sum(counts), dtype=torch.float64)
        if rank < len(turn):
            torch.split(results, counts)[rank].copy_(work(turn[rank]).flatten())
        results = _sum(results)
        parts = zip(torch.split(results, counts), shapes, strict=True)
        yield list(zip(turn, [part.reshape(each) for part, each in parts], strict=True))


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in some process; the same answer in all of them, so that they take the same way."""
    if rank_and_size()[1] == 1:
        return flag
    return bool(_sum(torch.tensor([float(flag)], dtype=torch.float64)).item())


def from_main(make: Callable[[], Value]) -> Value:
    """What `make` returns, or raises, in the main process, in every process."""
    rank, size = rank_and_size()
    if size == 1:
        return make()
    made: list[tuple[bool, object]] = [(False, None)]
    if rank == 0:
        try:
            made = [(True, make())]
        except Exception as error:  # raised below, in every process
            made = [(False, error)]
    dist.broadcast_object_list(made, src=0)
    succeeded, value = made[0]
    if not succeeded:
        assert isinstance(value, Exception)
        raise value
    return value  # type: ignore[return-value]


def _sum(values: Tensor) -> Tensor:
    """The sum over processes, on the CPU; NCCL adds on GPUs only."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else values.device
    there = values.to(device)
    dist.all_reduce(there)
    return there.to(values.device)
