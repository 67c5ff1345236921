"""What a campaign has found so far, with what it cost and what other procedures would have cost."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from zebra.campaign import baselines
from zebra.campaign.hunt import SEEDS
from zebra.campaign.plan import Case, pools
from zebra.campaign.result import Baselines, CampaignResult, ParameterResult
from zebra.campaign.trial import trial_seed
from zebra.campaign.verdict import read_sites, verdict

if TYPE_CHECKING:
    from zebra.campaign.campaign import Campaign


def result_of(campaign: Campaign) -> CampaignResult:
    """All verdicts of a campaign that is over, or was cut short."""
    from zebra.campaign.search import ERROR_RATE

    results = [_verdict(campaign, name) for name in campaign.names]
    bad = sum(result.verdict in ("unsafe", "invalid") for result in results)
    return CampaignResult(
        target=campaign.target.name, substrate=campaign.specs[0].substrate, seed=campaign.seed,
        trials=campaign.trials, bound_bits=round(baselines.bound_bits(len(results), bad), 1), error_rate=ERROR_RATE,
        baselines=_baselines(campaign), never=_never(campaign), left_out=campaign.left_out,
        skipped=campaign.skipped,
        unexplained=campaign.unexplained, reads_unseen=campaign.target.external, rolling=campaign.rolling,
        not_rolling=campaign.not_rolling,
        rolled=sum(bool(case.order) for state in campaign.state.values() for case in state.cases), parameters=results,
    )  # fmt: skip


def _verdict(campaign: Campaign, name: str) -> ParameterResult:
    state, reads = campaign.state[name], [read for tested in campaign.tested.values() for read in tested.reads]
    if campaign.cut is not None and state.found is not None and name not in campaign.explained:
        state.remarks.append(f"not explained: {campaign.cut}")
    sites = read_sites(campaign.space[name], reads)
    result = verdict(state, campaign.space[name], name in campaign.accepted, sites)
    if name in campaign.uncertain and result.verdict not in ("unsafe", "invalid"):
        result.verdict, result.risk = "untested", 0.0
        result.note = f"uncertain, {campaign.uncertain[name]} reads it where nobody knows for which node; {result.note}"
    valid = [case for case in state.cases if not state.is_invalid(case) and case not in state.unapplied]
    if campaign.cut is not None and state.found is None and _open(campaign, valid):
        result.verdict, result.risk = "undecided", 0.0
        result.note = "; ".join([*state.undecided, f"{campaign.cut} before all its cases were tried"])
    return result


def _open(campaign: Campaign, cases: Sequence[Case]) -> bool:
    """Whether some of a parameter's cases are still to be tried."""
    return not campaign.tested or any(case.test not in campaign.searched for case in cases)


def _never(campaign: Campaign) -> list[str]:
    """The target's `sometimes` that never were; a campaign over some parameters need not have seen them all."""
    whole = campaign.names == campaign.space.matching()
    return sorted(set(campaign.target.sometimes) - campaign.kinds) if whole and campaign.cut is None else []


# -- other procedures ---------------------------------------------------------------------------------------------


def _baselines(campaign: Campaign) -> Baselines:
    """What they would have needed for the static mixtures; they know no rolling changes."""

    def fails(case: Case) -> bool:
        """Whether one of ZebraConf's cases fails, for all that is known: the pair that was found, where it was."""
        state = campaign.state[case.parameter]
        return state.found is not None and any(
            case.test == failed.test and {case.base, case.other} == {failed.base, failed.other} and not failed.order
            for failed in state.failed
        )

    def invalid(case: Case) -> bool:
        return campaign.state[case.parameter].is_invalid(case)

    prerun = campaign.trials.prerun
    return Baselines(
        one_by_one=prerun + baselines.one_by_one(_singles(campaign), fails, invalid, 3 * SEEDS),
        zebraconf=prerun + baselines.zebraconf(_layers(campaign), fails, invalid),
    )


def _singles(campaign: Campaign) -> dict[str, list[Case]]:
    """For each parameter ZebraConf's cases, test by test."""
    return {name: [c for own in campaign.zebraconf.values() for c in own[name]] for name in campaign.names}


def _layers(campaign: Campaign) -> list[list[Case]]:
    """ZebraConf's pools: one of each test, a second one of each test …"""
    random = Random(trial_seed(campaign.seed, "layers"))
    per_test = [pools(own, random) for own in campaign.zebraconf.values()]
    return [own[k] for k in range(max(map(len, per_test), default=0)) for own in per_test if k < len(own)]
