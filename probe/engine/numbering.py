"""Reply numbers of a stateful STAMP reflector in, the way on which each unanswered probe was lost out. Pure.

A stateful reflector counts its replies (RFC 8762, section 4.3). Between two received replies of a flow, every
number that never came was a reply that was lost on its way back; the other missing probes were lost on their
way there. Nothing says in which order those went: the ones lost on the way there are said to be first.

    probe  s   7   8   9  10  11          of the numbers from 4 to 6, 5 never came: of 8, 9 and 10
    number r   4   -   -   -   6          one was lost on the way back, two on the way there

With m(r) = r less how many numbers below r came, a gap between r1 and r2 lacks m(r2) - m(r1) replies: this
holds where probes overtook each other on the way there, or were duplicated, too. But a lost probe that did
has its number in another gap than its own, which shows as more missing numbers than probes there: `_spans`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.engine.samples import BACKWARD, BLURRED, ERROR, FORWARD, HIDDEN, LOCAL, SENT, UNTOLD, Samples

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

_MOST = 1 << 16  # numbers remembered until the next cut that are not of a probe's first reply in time


@dataclass(frozen=True)
class Successions:
    """How received replies follow each other; arrays of shape (n,), in order of flow and probe."""

    flow: Indices
    number: NDArray[np.uint32]
    t2: Indices
    begins: Mask  # the first one of its flow
    away: Indices  # its number from one of the flow's, so that wrapped numbers are in order
    missing: Indices  # m of its number, from some zero
    epoch: Indices  # numbers of different epochs have nothing to do with each other: a reflector began anew
    origin: Indices  # where one begins a flow: m of the reply remembered from before, in epoch 0


class Numbering:
    """Follows the numbers of every flow from cut to cut. `flows`: of the whole agent.

    numbers: which flows' reflectors number their replies themselves, as far as their last replies show.
    """

    def __init__(self, flows: int) -> None:
        self.numbers = np.zeros(flows, np.bool_)
        # The last reply that was cut off: with which all that is told begins.
        self._known = np.zeros(flows, np.bool_)
        self._number = np.zeros(flows, np.uint32)
        self._t2 = np.zeros(flows, np.int64)
        self._probe = np.zeros(flows, np.int64)
        self._open = np.zeros(flows, np.int64)  # probes cut off since then that nobody answered
        self._doubtful = np.zeros(flows, np.bool_)  # ... among which some may have been answered
        # Numbers that came besides, as flows and numbers.
        self._strays: list[tuple[Indices, NDArray[np.uint32]]] = []
        self._kept = 0
        self._swamped = np.zeros(flows, np.bool_)  # flows of which not all such numbers are known

    def stray(self, flows: NDArray[np.integer], numbers: NDArray[np.uint32]) -> None:
        """Replies came with these numbers that were not their probes' first."""
        if self._kept + len(flows) > _MOST:
            self._swamped[flows] = True
            return
        self._strays.append((flows.astype(np.int64), numbers.copy()))
        self._kept += len(flows)

    def late(self, flows: NDArray[np.integer], probes: Indices, numbers: NDArray[np.uint32]) -> None:
        """Replies came to probes that had been cut off."""
        self.stray(flows, numbers)
        between = probes > self._probe[flows]
        np.subtract.at(self._open, flows[between], 1)

    def shown(self, flow: Indices, numbered: Mask) -> None:
        """Received replies of these flows came, and which showed that their number is the reflector's own.

        A stateless reflector copies the sender's (RFC 8762, section 4.3): then all differences are what the
        sender's are, and each loss would seem to be one on the way back.
        """
        self.numbers[flow] = False
        self.numbers[flow[numbered]] = True

    def chain(self, flow: Indices, number: NDArray[np.uint32], t2: Indices) -> Successions:
        """Put received replies, in order of flow and probe, in the order of their numbers.

        `t2`: when their probes came to the reflector; with a lower number, not sooner, it began anew.
        """
        count = len(flow)
        begins = np.ones(count, np.bool_)
        begins[1:] = flow[1:] != flow[:-1]
        starts = np.flatnonzero(begins)
        lengths = np.diff(np.append(starts, count))
        known = self._known[flow[starts]]
        reference = np.where(known, self._number[flow[starts]], number[starts])
        away = (number - np.repeat(reference, lengths)).view(np.int32).astype(np.int64)
        places = np.arange(count)
        # Without exceptions: each number above the last, so m = what is away less what came before it.
        missing = away - (places - np.repeat(starts - known, lengths))
        epoch, origin = np.zeros(count, np.int64), np.zeros(count, np.int64)
        chain = Successions(flow, number, t2, begins, away, missing, epoch, origin)
        rises = begins[1:] | (away[1:] > away[:-1])
        if self._strays or not rises.all() or (known & (away[starts] <= 0)).any():
            self._sort_out(chain, starts[known])
        return chain

    def _sort_out(self, chain: Successions, front: Indices) -> None:
        """`chain` where numbers did not just rise. `front`: where flows begin of which one is remembered."""
        # It stands in front of its flow.
        flow = np.insert(chain.flow, front, chain.flow[front])
        number = np.insert(chain.number, front, self._number[chain.flow[front]])
        t2 = np.insert(chain.t2, front, self._t2[chain.flow[front]])
        away = np.insert(chain.away, front, 0)
        places = np.arange(len(chain.flow))
        places += np.searchsorted(front, places, side="right")
        begins = np.ones(len(flow), np.bool_)
        begins[1:] = flow[1:] != flow[:-1]
        anew = np.zeros(len(flow), np.bool_)
        anew[1:] = (away[1:] <= away[:-1]) & (t2[1:] >= t2[:-1])
        group: Indices = np.cumsum(begins | anew, dtype=np.int64)
        # Numbers that came besides: of the flow's last epoch, if there are several.
        besides = np.concatenate([np.zeros(0, np.int64), *(flows for flows, _ in self._strays)])
        theirs = np.concatenate([np.zeros(0, np.uint32), *(numbers for _, numbers in self._strays)])
        last = np.maximum(np.searchsorted(flow, besides, side="right") - 1, 0)
        here = flow[last] == besides if len(flow) else np.zeros(0, np.bool_)
        last, theirs = last[here], theirs[here]
        from_last = (theirs - number[last]).view(np.int32)
        key = _key(group, away)
        came = np.unique(np.concatenate([key, _key(group[last], away[last] + from_last)]))
        rank = np.searchsorted(came, key) - np.searchsorted(came, _key(group, -(1 << 33)))
        missing = away - rank
        epoch: Indices = group - np.repeat(
            group[begins], np.diff(np.append(np.flatnonzero(begins), len(flow)))
        )
        chain.missing[:], chain.epoch[:] = missing[places], epoch[places]
        chain.origin[front] = missing[front + np.arange(len(front))]

    def tell(
        self, samples: Samples, first: int, order: Indices, at: Indices, chain: Successions
    ) -> NDArray[np.uint8]:
        """On which way each probe was lost, and remember what the next cut begins with.

        Args:
            samples: the probes of the cut. first: the number of the first.
            order: their places in order of flow and probe. at: those that were answered, in this order.
            chain: of the replies to these.
        """
        out = np.zeros(len(samples.flow), np.uint8)
        state = samples.state
        silent = (samples.rx == 0) & ((state & (SENT | LOCAL)) == SENT)
        stays = (samples.tx == 0) & samples.stamping[samples.flow]
        # Our own full buffer hides whether these were answered, or left at all.
        doubtful = silent & (((state & HIDDEN) != 0) | (stays & ((state & BLURRED) != 0)))
        gone = silent & ~stays & ~doubtful
        failed = gone & ((state & ERROR) != 0)
        out[failed] = FORWARD  # an ICMP error came for it: nobody reflected it
        lost = gone & ~failed
        if len(at) and lost.any():
            self._tell_gaps(out, samples, order, lost, doubtful, chain)
        self._remember(samples, first, at, chain, lost, doubtful)
        return out

    def _tell_gaps(
        self,
        out: NDArray[np.uint8],
        samples: Samples,
        order: Indices,
        lost: Mask,
        doubtful: Mask,
        chain: Successions,
    ) -> None:
        """Divide the lost probes of each gap: of a flow's, those between two that were answered."""
        flow, begins = chain.flow, chain.begins
        flows = samples.flow[order]
        answered = np.flatnonzero(samples.rx[order] != 0)
        starts = np.searchsorted(flows, flow[begins])  # of the flows, in `order`
        counts = []
        for mask in (lost, doubtful):
            total = np.cumsum(mask[order])
            base = np.empty(len(flow), np.int64)
            base[1:] = total[answered[:-1]]
            base[begins] = total[starts] - mask[order[starts]]
            counts.append((total, base))
        (total, base), (doubts, doubts_base) = counts
        # What was cut off since the remembered reply comes first.
        earlier = np.where(begins, np.maximum(self._open[flow], 0), 0)
        losses = total[answered] - base + earlier
        last, epoch = np.empty(len(flow), np.int64), np.zeros(len(flow), np.int64)
        last[1:], epoch[1:] = chain.missing[:-1], chain.epoch[:-1]
        last[begins], epoch[begins] = chain.origin[begins], 0
        told = self.numbers[flow] & (chain.epoch == epoch)
        told &= (doubts[answered] == doubts_base) & (~begins | self._known[flow])
        told &= ~((begins & self._doubtful[flow]) | self._swamped[flow])
        missing = chain.missing - last
        # More numbers than probes: others are counted with these, so that a number says nothing of one flow.
        rest = np.bincount(flow[told], (losses - missing)[told], len(self.numbers))
        shared = (rest < 0) & (np.bincount(flow[told], losses[told], len(self.numbers)) > 0)
        self.numbers[shared] = False
        spans = _spans(chain, losses, missing, told & ~shared[flow])
        gaps = np.flatnonzero(lost[order])
        ends = np.searchsorted(answered, gaps)
        closed = ends < len(flow)
        gaps, ends = gaps[closed], ends[closed]
        closed = flow[ends] == flows[gaps]
        gaps, ends = gaps[closed], ends[closed]
        span = spans.of[ends]
        before = np.cumsum(losses) - losses
        nth = total[gaps] - base[ends] + earlier[ends] + before[ends] - before[spans.first[span]]  # from 1
        back = nth > (spans.losses - spans.backward)[span]
        out[order[gaps]] = np.where(nth <= spans.forward[span], FORWARD, np.where(back, BACKWARD, UNTOLD))

    def _remember(
        self, samples: Samples, first: int, at: Indices, chain: Successions, lost: Mask, doubtful: Mask
    ) -> None:
        """Take down of each flow the last answered probe that is cut off, and what is open behind it."""
        within = np.flatnonzero(at < samples.inside)
        flow = chain.flow[within]
        final = np.ones(len(within), np.bool_)
        final[:-1] = flow[1:] != flow[:-1]
        last, flow = within[final], flow[final]
        self._keep_strays(within, last, flow, chain)
        self._known[flow] = True
        self._number[flow], self._t2[flow] = chain.number[last], chain.t2[last]
        self._probe[flow] = first + at[last]
        self._open[flow], self._doubtful[flow] = 0, False
        latest = self._probe - first  # by flow
        for mask in (lost, doubtful):
            rows = np.flatnonzero(mask[: samples.inside])
            rows = rows[rows > latest[samples.flow[rows]]]
            if mask is lost:
                self._open += np.bincount(samples.flow[rows], minlength=len(self._open))
            else:
                self._doubtful[samples.flow[rows]] = True

    def _keep_strays(self, within: Indices, last: Indices, flow: Indices, chain: Successions) -> None:
        """Of numbers that came already, keep those above the last one: replies below them are not missing."""
        numbers, flows = chain.number[within], chain.flow[within]
        above = np.zeros(len(self._number), np.uint32)
        above[flow] = chain.number[last]
        era = np.zeros(len(self._number), np.int64)
        era[flow] = chain.epoch[last]
        keep = (chain.epoch[within] == era[flows]) & ((numbers - above[flows]).view(np.int32) > 0)
        strays, self._strays, self._kept = self._strays, [], 0
        self._swamped[:] = False
        if keep.any():
            self.stray(flows[keep], numbers[keep])
        closed = np.zeros(len(self._number), np.bool_)
        closed[flow] = True
        for some, them in strays:
            stays = np.where(closed[some], (them - above[some]).view(np.int32) > 0, self._known[some])
            stays &= era[some] == 0
            if stays.any():
                self.stray(some[stays], them[stays])


@dataclass(frozen=True)
class _Spans:
    """Gaps that are told of together, as probes in them overtook each other; shape (spans,), but `of`."""

    of: Indices  # shape (n,): the span of the gap before each received reply
    first: Indices  # its first gap
    losses: Indices  # probes in it that nobody answered
    forward: Indices  # of these, how many are known to be lost on the way there,
    backward: Indices  # ... and on the way back


def _spans(chain: Successions, losses: Indices, missing: Indices, told: Mask) -> _Spans:
    """Divide the losses of each span.

    Args:
        losses, missing: in the gap before each received reply, probes without an answer, and numbers that
            never came.
        told: the gaps of which anything can be told.
    """
    group: Indices = np.cumsum(chain.begins | np.append(False, np.diff(chain.epoch) != 0))
    key = _key(group, chain.away)
    begins = np.ones(len(key), np.bool_)
    odd = (missing < 0) | (missing > losses)
    if odd.any() and not (key[1:] > key[:-1]).all():
        # Behind a reply in order every number is higher, and before it lower.
        in_order = (key == np.minimum.accumulate(key[::-1])[::-1]) & (key == np.maximum.accumulate(key))
        begins[1:] = in_order[:-1] | (group[1:] != group[:-1])
        begins |= ~np.logical_or.reduceat(odd, np.flatnonzero(begins))[np.cumsum(begins) - 1]
    first = np.flatnonzero(begins)
    lost, gone = np.add.reduceat(losses, first), np.add.reduceat(missing, first)
    sure = np.logical_and.reduceat(told, first)
    rest = np.where(sure, np.maximum(lost - gone, -_MOST), 0)
    # More numbers than probes are missing: a probe that came to the reflector later or earlier than its place
    # was answered in vain. It seems to be lost on the way there where its place is: nobody knows how far off.
    sure &= (rest >= 0) & (gone >= 0)
    forward = np.maximum(rest, 0)
    if (rest < 0).any():
        where = group[first]
        forward -= _debts(rest, where) + _debts(rest[::-1], -where[::-1])[::-1]
    return _Spans(
        np.cumsum(begins) - 1,
        first,
        lost,
        np.where(sure, np.maximum(forward, 0), 0),
        np.where(sure, gone, 0),
    )


def _debts(rest: Indices, group: Indices) -> Indices:
    """What those in front, within the group, still lack: the nearest behind that have it give it."""
    level = np.cumsum(rest) - rest  # in front of each
    begins = np.append(True, group[1:] != group[:-1])
    level -= np.repeat(level[begins], np.diff(np.append(np.flatnonzero(begins), len(group))))
    span = int(np.abs(level).max(initial=0)) * 2 + 1
    place = np.cumsum(begins) * span
    highest = np.maximum.accumulate(level + place) - place
    debt: Indices = highest - level
    return debt


def _key(group: Indices, away: Indices | int) -> Indices:
    """Group and number in one: in the order of both."""
    return (group << 35) + away
