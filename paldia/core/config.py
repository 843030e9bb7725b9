"""Constants of the policies, validated once. The defaults are ours; see docs/policy.md."""

from __future__ import annotations

from dataclasses import dataclass

from paldia.core.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What the planner may be tuned by.

    Attributes:
        margin: share of the SLO's latency that a prediction may use up.
        saving_margin: the same for a move that only saves money; the gap between the two
            keeps a model from going back and forth around one load.
        utilisation_limit: share of a device's capacity that may be planned for.
        burst_z: standard deviations of one window's arrivals that must be withstood.
        rate_rise_constant_s: time constant of the arrival-rate average while the rate rises.
        rate_fall_constant_s: the same while it falls.
        dispersion_time_constant_s: memory of the estimate of burstiness, in seconds.
        dispersion_limit: cap on the estimated index of dispersion.
        peak_quantile: probability with which demand stays below what hardware is held for,
            until other hardware can be had.
        wait_limit_s: seconds for which a saving must win without a break before it is
            acted on; a time and no count, since steps come early when something changes.
        payback_s: seconds within which a move that saves money must have saved what it costs
            to pay for both places while the new one starts.
        improvement: share by which the predicted latency must shrink for batch size and
            lanes to change, or for a model to move when no hardware meets its SLO.
        lanes_limit: most batches of one model at once on one node.
        nodes_limit: most nodes of one kind that a model's work is divided over, more than
            its replicas aside.
        backlog_limit_s: seconds after which requests that wait on end count as work of their
            own: the rate doesn't tell all.
        avoid_s: seconds for which a node that failed to start a model is not tried again.
        start_limit_s: seconds a placement may take to become ready, besides its load time.
        settled_band: share by which demand may differ from what a model was last judged for
            before it is judged again.
        review_s: seconds after which a model is judged again, whatever its demand.
        lost_share_limit: share of the nodes in use whose loss is believed at once; more are
            more likely out of the observer's sight than gone.
    """

    margin: float = 0.9
    saving_margin: float = 0.7
    utilisation_limit: float = 0.8
    burst_z: float = 2.0
    rate_rise_constant_s: float = 1.0
    rate_fall_constant_s: float = 3.0
    dispersion_time_constant_s: float = 30.0
    dispersion_limit: float = 20.0
    peak_quantile: float = 0.9
    wait_limit_s: float = 3.0
    payback_s: float = 600.0
    improvement: float = 0.1
    lanes_limit: int = 8
    nodes_limit: int = 16
    backlog_limit_s: float = 30.0
    avoid_s: float = 60.0
    start_limit_s: float = 60.0
    settled_band: float = 0.05
    review_s: float = 30.0
    lost_share_limit: float = 1 / 3

    def __post_init__(self) -> None:
        for name in (
            "margin",
            "saving_margin",
            "utilisation_limit",
            "improvement",
            "settled_band",
            "lost_share_limit",
            "peak_quantile",
        ):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise InvalidArgumentError(f"{name} must lie between 0 and 1, not {value:g}")
        if self.saving_margin > self.margin:
            raise InvalidArgumentError("saving_margin must not exceed margin")
        for name in (
            "rate_rise_constant_s",
            "rate_fall_constant_s",
            "dispersion_time_constant_s",
            "payback_s",
            "start_limit_s",
            "review_s",
        ):
            if getattr(self, name) <= 0:
                raise InvalidArgumentError(f"{name} must be above 0 s")
        if self.wait_limit_s < 0 or self.lanes_limit < 1 or self.nodes_limit < 1:
            raise InvalidArgumentError("wait_limit_s, lanes_limit or nodes_limit is too small")
        if (
            self.burst_z < 0
            or self.avoid_s < 0
            or self.backlog_limit_s < 0
            or self.dispersion_limit < 1
        ):
            raise InvalidArgumentError("burst_z, avoid_s or dispersion_limit is too small")
