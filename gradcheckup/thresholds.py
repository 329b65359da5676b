"""The limits that rules judge by, in one frozen record. Each default says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields

from gradcheckup.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits of all rules. No limit is absolute in the gradient: a loss scale changes no verdict.

    Attributes:
        gradient_ratio_low: Below this end-to-end gradient ratio the gradient fades: a warning.
            Ratios of nets that learn without trouble stay above it. The critical limits count at
            most as far as this one.
        gradient_ratio_critical: Below this it vanishes for an optimizer whose steps follow the
            size of the gradient (SGD): plain MLPs of default initialisation learn digits at .0054
            and fail at .0024.
        gradient_ratio_critical_moving: The same where the first layer moves all the same: under
            optimizers that scale every parameter's step to a size of its own (Adam), which learn
            at 2e-5 where the ratio climbs and fail at 1.5e-4 where it does not, and under learning
            rates large enough for `moving_update`.
        moving_update: Update ratio of the first layer from which it counts as moving. With SGD at
            ratios of .0002 to .02, nets that moved by 1.7e-4 a step learnt, and those that moved
            by 1.4e-5 and less did not within 2000 steps; a usual one is 1e-3.
        blind_condition: Condition number of the outputs' response from which updates do not see
            the input: what they change is the same for all samples. Under Adam, nets at 5e3 learnt
            late, and those at 2e4 did not.
        blind_progress: The share of the loss that a step wins by telling samples apart, below
            which that counts: at 1e-6 it takes a million steps.
        gradient_ratio_high: Above it the gradient explodes. Same nets: no healthy one over 100.
        norm_growth: Growth per normalisation layer that is expected and multiplies the upper
            limit: sqrt(pi / (pi - 1)) for BatchNorm and ReLU (Yang et al. 2019).
        norm_growth_cap: The upper limit grows no further than this: residual BatchNorm nets reach
            2500 at initialisation and train (ResNet-152).
        signal_growth_cap: Under optimizers that scale every parameter's step, the upper limit is
            multiplied by the growth of the signal up to this: plain ReLU nets of N(0, 1) weights
            grow 3000 times both ways and learn, one that grows by 1e11 does not.
        spike_growth: A gradient this many times the usual one is a spike.
        time_resolution: A time step of a recurrent layer is blind where the gradient of its input
            is below this share of the largest along the sequence: the resolution of float32.
        time_ratio_low: A first time step below this share of the largest is faint. Where a symbol
            20 steps back is to be named (5e-5 to 1e-4), SGD stays at chance and Adam is half way
            after 500 steps.
        time_moving_update: Update ratio of a recurrent layer from which it may find faint steps all
            the same. With SGD, LSTMs and GRUs that moved by 1e-4 to 4e-4 a step did not learn a
            symbol 20 to 40 steps back within 2000 steps; most that moved by 7e-4 and more did.
        blind_share: Share of blind steps, from the beginning of the sequence, from which on it is
            forgotten. Where a symbol 50 or 100 steps back is to be named, default RNNs, GRUs and
            LSTMs (.3 to .7 blind) stay at chance.
        dependence: The output of a recurrent layer says nothing of the targets where it has no more
            to do with its gradient than this, in standard deviations of shuffled samples. Nets that
            are .45 to .75 blind and learn all the same (forecasts, sums, digits pixel by pixel) are
            at 1.2 to 60.
        signal_ratio_low: Below this share of the first layer's batch signal the signal fades. The
            limits for a collapse are those of the gradient: the two mirror each other.
        signal_kept: Share of its end-to-end signal that a net has to keep over the probe, unless it
            learns all the same, as mnasnet0_5 does, which keeps 3%.
        signal_progress: Share of the loss that a step has to win by telling samples apart, for that
            to be said: MLPs whose signal was wiped out won less than 1e-4 and failed.
        stalled_progress: The same share, of nets that were followed to a loss which has stopped
            falling: below it they may be stuck, a tenth of the loss takes 2500 steps.
        stalled_steps: They are where that will last longer than this many steps, as it has grown
            from step 64 to 256. From such plateaus nets learnt within 500 steps where it would last
            800, and within 2000 where it would last 4800; most of those that did not learn within
            2000 would last 6600 and more.
        unlearnt_loss: Share of the loss, of what it is where the samples of a batch exchange the
            model's outputs, below which a net that was followed to step 64 learns in spite of its
            gradient or signal. Those that are flagged and fail keep 0.4 and more; those that are
            flagged and learn keep 0 to 0.21, and two 0.7 and 1.
        schooled_steps: So many steps have to be made before a net is blamed for knowing nothing.
        unexplained_variance: Share of the variance of new targets which kernel ridge regression
            may leave for a net to be blamed that knows little of them: digits leave .1 to .4, a
            symbol among 100 steps of noise .4, digits of which three in ten have a wrong label and
            nets learn these by heart .5 and more, targets of no relation to their inputs 1.
        readout_nothing: Nor is it blamed where regression on its outputs tells more than this share
            of what regression on the inputs tells: it begins to learn, as LSTMs do that keep .98 of
            the loss (.65), or its rate is small. Nets that are stuck tell 0 to .45.
        readout_little: The same share for a net that keeps no more than .9 of the loss: what
            learns its batches by heart through layers that scramble them tells 0 to .4, what
            learns slowly .5 and more.
        saturation_slope: A pre-activation is saturated where the derivative is below this
            fraction of its maximum: |z| > 3.6 for sigmoid, 1.8 for tanh.
        saturation_warning: Share of saturated units that is worth a warning; a sigmoid net with
            N(0, 1) weights has 61% and still learns.
        saturation_critical: Share that stops learning; the same net with N(0, 10^2) has 96%.
        dead_warning: Share of dead units worth a warning: deep plain ReLU nets have up to half at
            initialisation and learn.
        dead_critical: Share of dead units that starves a layer.
        attention_entropy_warning: Entropy of attention weights, 1 where all are equal, below which
            it is saturated: with logits x 100 small transformers have .02 to .07, at PyTorch's
            initialisation .95 to 1.
        attention_entropy_critical: Nets of several layers that all start below it do not learn
            with SGD, whatever the task.
        starved_update: A layer whose update ratio is below this share of the median layer's is
            starved; layers of nets that learn stay within a factor 1000 of one another.
        oversized_update: Updates larger than this share of the weights, step after step, replace
            the weights instead of improving them; a usual one is 1e-3.
        loss_growth: The loss has diverged when it settles above this multiple of the first one.
        underflow_warning: Share of a weight's gradient that float16 rounds away, from which it is
            worth a warning: as the loss falls, more is lost.
        underflow_critical: Share from which the gradient counts as gone. Nets in which all weights
            lost .9 and more did not learn, those that lost .1 to .4 did.
        underflow_share: Share of the weights that have to lose their gradient for the net to fail
            with Adam; with SGD all of them have to.
        unexplained_loss: Share of the loss, of what it is where the samples of a batch exchange the
            model's outputs, below which a net has learnt its batches and that nothing moves any
            more is no fault: fits to the last digit are below 1e-8, nets that are stuck above 0.1.
        accounted_slope: Share of what outputs do to a criterion below which its gradient does not
            know of it: a penalty beside a detached loss leaves 1e-5 to 6e-3; criteria that detach a
            weight or a half leave .3 and more.
        carried_gradient: Gradient left over from earlier steps, against this step's, that counts
            as accumulating.
        symmetric_spread: Rows closer than this relative distance are the same weight vector;
            float32 rounding leaves 1e-7.
        unseen_fraction: Gradients below this share of the median parameter's are zero by
            structure or rounding (a key bias, a bias in front of BatchNorm: 1e-9 and less).
    """

    gradient_ratio_low: float = 0.02
    gradient_ratio_critical: float = 0.004
    gradient_ratio_critical_moving: float = 5e-4
    moving_update: float = 1e-4
    blind_condition: float = 1e4
    blind_progress: float = 1e-6
    gradient_ratio_high: float = 100.0
    norm_growth: float = 1.2112
    norm_growth_cap: float = 1e4
    signal_growth_cap: float = 1e4
    spike_growth: float = 10.0
    time_resolution: float = 1e-7
    time_ratio_low: float = 1e-4
    time_moving_update: float = 5e-4
    blind_share: float = 0.3
    dependence: float = 1.5
    signal_ratio_low: float = 0.02
    signal_kept: float = 0.05
    signal_progress: float = 1e-3
    stalled_progress: float = 4e-5
    stalled_steps: float = 5000.0
    unlearnt_loss: float = 0.25
    schooled_steps: float = 2000.0
    unexplained_variance: float = 0.5
    readout_nothing: float = 0.5
    readout_little: float = 0.4
    saturation_slope: float = 0.1
    saturation_warning: float = 0.5
    saturation_critical: float = 0.9
    dead_warning: float = 0.5
    dead_critical: float = 0.9
    attention_entropy_warning: float = 0.1
    attention_entropy_critical: float = 0.01
    starved_update: float = 1e-4
    oversized_update: float = 1.0
    loss_growth: float = 2.0
    underflow_warning: float = 0.1
    underflow_critical: float = 0.9
    underflow_share: float = 0.6
    unexplained_loss: float = 1e-3
    accounted_slope: float = 0.01
    carried_gradient: float = 1e-3
    symmetric_spread: float = 1e-5
    unseen_fraction: float = 1e-6

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(f"threshold {field.name} must be a number, got {value!r}")
            if not value > 0:
                raise UsageError(f"threshold {field.name} must be above 0, got {value!r}")
        for low, high in (
            ("gradient_ratio_low", "gradient_ratio_high"),
            ("saturation_warning", "saturation_critical"),
            ("dead_warning", "dead_critical"),
            ("attention_entropy_critical", "attention_entropy_warning"),
            ("underflow_warning", "underflow_critical"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise UsageError(f"threshold {low} must not be above {high}")
