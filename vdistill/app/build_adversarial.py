"""From the sections of methods that a judge completes to the objects that train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser, Net
from ..core.errors import UserError
from ..core.inputs import Inputs, Mixed, Noised
from ..core.losses.regression import l1, l2, pseudo_huber
from ..core.rng import Rng
from ..core.scope import Roles
from ..core.step import Balance, Method, Term, added
from ..core.times import Grid, Uniform
from ..discriminators.balance import GradientRatio
from ..discriminators.pair import Pair
from ..families.few_step import Straight
from ..families.stock import StockFamily
from ..methods.distilled_score import DistilledScore
from ..methods.frame_matching import DecodedFrames, FrameMatching, LatentFrames, Pictures
from ..methods.judged import Aim, Judged, own_end
from ..methods.motion import VIEWS, OwnNoised
from ..methods.progressive import Progressive, ProgressiveConfig
from ..methods.seen_consistency import SeenConsistency
from ..methods.towards import Distance, Solved, Towards
from .build_causal import guided
from .build_family import AnyFamily
from .build_judge import judge_beside, metric_of, pair_of
from .build_looks import Evidence, network_of
from .judge_file import ENDS, begun
from .models import open_model
from .schema import Config
from .schema_adversarial import (
    MethodAdd,
    MethodFrameMatching,
    MethodJudged,
    MethodJudgedConsistency,
    MethodProgressive,
    MethodRegression,
)
from .schema_judge import Judge, Metric

MakeInputs = Callable[..., Inputs]
"""build.inputs_of, which this file is imported by."""
FRAMES = "frames"


def players(m: object) -> tuple[str, ...]:
    """Who learns in these methods, beside heads and convolutions: the student, a critic that is looked through, and a
    critic of single frames."""
    judge = getattr(m, "judge", None)
    copied = isinstance(judge, Judge) and judge.looks_through_critic
    frames = isinstance(m, MethodFrameMatching) and m.image_teacher is None
    return ("student", *(["critic"] if copied else []), *([FRAMES] if frames else []))


def judged_method(
    config: Config,
    m: MethodJudged,
    family: AnyFamily,
    roles: Roles,
    guided_by: str,
    inputs_of: MakeInputs,
    evidence: Evidence,
) -> tuple[Method, tuple[float, ...]]:
    """(the method over its roles, the times of the student it makes)."""
    times = m.times or tuple(family.net.schedule.grid(m.steps)[:-1].tolist())
    teacher = guided(roles.teacher, guided_by, m.scale, config.train.guidance_batch)
    student, modules = roles.denoisers["student"], roles.modules
    if isinstance(m, MethodProgressive):
        method = progressive(m, teacher, roles, times, evidence)
        check_times(family, method)
        return method, Straight(times)
    balance: Balance = GradientRatio(m.judge.share) if m.judge else added
    more: dict[str, Any] = {"balance": balance, "each": m.watch_per_student}
    if isinstance(m, MethodRegression):
        inputs = inputs_of(config, m.inputs, times, Grid(times), 0.0)
        pair = steps_judge(m.judge, roles, evidence) if m.judge and m.conditional else None
        terms = terms_of(None if m.conditional else m.judge, roles, evidence)
        return Judged(student, modules, inputs, regression(m, teacher, roles), terms, pair=pair, **more), times
    if isinstance(m, MethodJudgedConsistency):
        aim, inputs = consistency(m, teacher)
        return Judged(student, modules, inputs, aim, terms_of(m.judge, roles, evidence), **more), times
    inputs = inputs_of(config, m.inputs, times, Grid(times), m.data_weight)
    if isinstance(m, MethodAdd):
        score = DistilledScore(teacher, Uniform(m.t_min, m.t_max), m.weight, m.fading)
        return Judged(student, modules, inputs, score, terms_of(m.judge, roles, evidence), **more), times
    matching = frame_matching(config, m, family, roles, guided_by)
    return Judged(student, modules, inputs, None, [matching, *terms_of(m.judge, roles, evidence)], **more), times


def progressive(
    m: MethodProgressive, teacher: Denoiser, roles: Roles, times: tuple[float, ...], evidence: Evidence
) -> Progressive:
    """By regression, by judges, or by both."""
    judges = [] if m.judge is None else [steps_judge(m.judge, roles, evidence)]
    if m.judge is not None and m.relax is not None:
        judges.append(steps_judge(m.judge, roles, evidence, before=False))
    distance = (0.0 if judges else 1.0) if m.distance is None else m.distance
    own = ProgressiveConfig(m.substeps, "flow", m.floor, distance, m.relax or 0, m.watch_per_student)
    return Progressive(own, teacher, roles.denoisers["student"], roles.modules, times, judges)


def check_times(family: AnyFamily, method: Progressive) -> None:
    """UserError where a few-step teacher would be asked at times it was not trained at."""
    own = family.times if isinstance(family, StockFamily) else None
    if own is None:
        return
    for t in method.table[:, :-1].flatten().tolist():
        if min(abs(t - each) for each in own) > 1e-6:
            shown = [round(each, 3) for each in own]
            said = f"asks the teacher at t = {t:.3g}, and it is a student of times {shown}"
            raise UserError(said, "method.substeps", f"say steps: {max(1, len(own) // 2)}, substeps: 2, and no times")


def regression(m: MethodRegression, teacher: Denoiser, roles: Roles) -> Aim:
    """To which end, and how far it is."""
    end = own_end if m.end == "own" else Solved(teacher, m.teacher_steps)
    return Towards(end, distance_of(m, roles), m.weight)


def distance_of(m: MethodRegression, roles: Roles) -> Distance:
    """A distance by its name."""
    if m.distance == "perceptual":
        return metric_of(m.metric or Metric(), roles.teacher)
    metric = {"huber": pseudo_huber(m.huber_c), "l1": l1, "l2": l2}[m.distance]

    def plain(x: Tensor, goal: Tensor, cond: Cond, rng: Rng) -> Tensor:
        return metric(x, goal)

    return plain


def consistency(m: MethodJudgedConsistency, teacher: Denoiser) -> tuple[Aim, Inputs]:
    """What is to agree, and what is shown."""
    grid = tuple(teacher.schedule.grid(m.teacher_steps).tolist())
    law = Grid(grid[:-1])
    inputs: Inputs = Noised(law)
    own = OwnNoised(law, grid[0])
    if m.own:
        inputs = own if m.own == 1 else Mixed((own, inputs), (m.own, 1 - m.own))
    metric = pseudo_huber(m.huber_c)
    return SeenConsistency(teacher, grid, m.skip, m.solves, VIEWS[m.view], metric, m.solver, m.weight), inputs


def frame_matching(
    config: Config, m: MethodFrameMatching, family: AnyFamily, roles: Roles, guided_by: str
) -> FrameMatching:
    """The matching of frames, its teacher of images opened."""
    teacher, limit = roles.teacher, config.train.guidance_batch
    if m.image_teacher is None:
        critic, module = roles.denoisers[FRAMES], roles.modules[FRAMES]
    else:
        assert isinstance(family, StockFamily)
        teacher = image_teacher(m.image_teacher, family)
        critic = module = copy.deepcopy(teacher).float()
    law = Uniform(m.t_min, m.t_max)
    shown = guided(teacher, guided_by, m.scale, limit)
    return FrameMatching(shown, critic, module, pictures_of(family, m.frames), law, m.weight, m.floor, FRAMES)


def image_teacher(path: str, family: StockFamily) -> Net:
    """A teacher of images for clips of this family. UserError for one of other latents or other text."""
    net = open_model(path).to(family.device).net.eval().requires_grad_(False)
    ours, theirs = network_of(family.net), network_of(net)
    for key, what in (("channels", "latents of {} channels"), ("text_in", "text that goes in at {}")):
        known, found = getattr(ours, key), getattr(theirs, key)
        if known != found:
            said = f"takes {what.format(found)}, the family {what.format(known)}"
            raise UserError(said, f"method.image_teacher: {path}", "name one of the same codec and text encoder")
    return net


def pictures_of(family: AnyFamily, count: int) -> Pictures:
    """How single frames are taken out of clips of latents."""
    if not isinstance(family, StockFamily) or family.codec.temporal == 1:
        return LatentFrames(count)
    return DecodedFrames(family.codec.unclipped, family.codec.encoded, count)


# -- judges -----------------------------------------------------------------------------------------------------------


def terms_of(spec: Judge | None, roles: Roles, evidence: Evidence) -> Sequence[Term]:
    """The judge of samples, where there is one."""
    if spec is None:
        return []
    teacher = roles.teacher
    return [judge_beside(spec, teacher, roles.denoisers.get("critic", teacher), teacher.schedule, evidence)]


def steps_judge(spec: Judge, roles: Roles, evidence: Evidence, before: bool = True) -> Pair:
    """A judge of steps; before: it sees where they began."""
    teacher = roles.teacher
    pair = pair_of(spec, teacher, roles.denoisers.get("critic", teacher), before=before, evidence=evidence)
    return begun(pair if before else replace(pair, name=ENDS), spec.start)
