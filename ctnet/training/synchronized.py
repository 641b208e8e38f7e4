"""Batch statistics and control flow that several processes share, as if there were one."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm, batch_norm, batch_statistics
from ctnet.models.mhn_stn import PerTaskModel
from ctnet.training.distributed import anywhere, is_shared, sum_of_all


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm by the statistics of all processes; torch's own, ``SyncBatchNorm``, needs GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes ``x`` (N,C,h,w), of which a process may have none."""
        if not self.training:
            return super().forward(x)
        statistics = batch_statistics(x, self, sum_of_all)
        y = batch_norm(x, self.weight[None], self.bias[None], None, statistics)
        return y.to(x.dtype)


def synchronize(model: nn.Module, frozen: Collection[nn.Module] = ()) -> None:
    """Synchronizes batch statistics, so that a part of a batch trains like the whole.

    Does nothing where one process trains alone.

    Args:
        model: The network; changed in place, its parameters and their names stay.
        frozen: Parts whose norms keep their running statistics.

    Raises:
        ValueError: If the network has batch norms of a type that is not known.
    """
    if not is_shared():
        return
    if isinstance(model, PerTaskModel):
        model.anywhere = anywhere
    still = {id(module) for part in frozen for module in part.modules()}
    inner = set()
    for name, module in model.named_modules():
        if isinstance(module, ConditionedBatchNorm):
            module.total = sum_of_all
            inner.add(id(module.norm))
        elif isinstance(module, _BatchNorm) and id(module) not in still | inner:
            if type(module) is not nn.BatchNorm2d or not module.affine or module.momentum is None:
                raise ValueError(
                    f"{name} is a {type(module).__name__}, whose statistics cannot be taken over "
                    "several processes: freeze them (frozen_statistics), or train in one process."
                )
            # Parameters, hooks and whoever holds the module stay as they are.
            module.__class__ = SynchronizedBatchNorm2d
