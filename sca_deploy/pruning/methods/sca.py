"""SCA: pruning and regrowth of channels by spiking channel activity (Li et al., ICML 2024).

After an epoch, all prunable channels of the network are ranked together by their score. The best are
kept; of the others, those with the largest |dL/dgamma| are regrown; the rest are masked.

Where this differs from the authors' released code: masks act in every forward, not once an epoch;
pruned weights stay, so that |dL/dgamma| of a masked channel is a live signal (see
`nn.network.MaskedBatchNorm`), averaged over the batches of the epoch; scores look at every second
batch; no layer falls below a floor; the kept fraction ramps down (unless `ramp = "constant"`), and
the masks of the last epochs are fixed.
"""

from __future__ import annotations

from sca_deploy.pruning.channels import ChannelMethod


class SCA(ChannelMethod):
    """Ranks by mean |V| after every epoch, and regrows by the gradient of gamma."""

    name = "sca"
    summary = "channels by spiking activity, regrown by the gradient of gamma, epoch by epoch"
    own_score = "potential"
    own_signal = "gamma_gradient"
