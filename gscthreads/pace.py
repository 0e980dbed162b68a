"""How fast one site takes calls: found out from refusals, never asked.  Pure: no lock, clock or chance.

Google's burst limit is not published (gsc-api.md 3: 5 to 20 a second were seen), and single refusals come at any pace.
So a slow-down is first an experiment: if at half the pace as large a part of the calls is refused, the refusals have
nothing to do with pace; they are noise, and the pace comes back.  If it helps, the pace at which refusals came is the
*ceiling*: the pace settles a little below it, stays there for a while, and then tries more.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional, Tuple

#: Slowest pace, calls per second.
SLOWEST = 1.0

#: A batch while the ceiling is known: so many seconds' worth of calls, since the server counts in seconds.  A whole
#: batch more or less in its second is what the pace has to stay away from the limit: 0.2 settled 17 to 26 % below a
#: limit of 20 (how far depends on how evenly calls arrive), 0.15 settles 9 to 18 %.
_BATCH_SECONDS = 0.15

#: Share of calls refused, beyond noise, that halves the pace; what is only suspicious needs more calls to say so.
_HEAVY, _HEAVY_CALLS = 1 / 3, 20
_SUSPICIOUS, _SUSPICIOUS_CALLS = 0.1, 100

#: Refusals an experiment waits for, if they were noise; within so many calls.
_TRIAL_REFUSED, _TRIAL_CALLS = 12, (40, 120)

#: Shares above this are no noise, whatever an experiment says.
_MOST_NOISE = 0.5

#: Below the ceiling: refusals among so many calls that show that it is lower; what is left of the pace then, at least
#: and at most; and after how many such cuts in a row an experiment is called for.
_FINE_REFUSED, _FINE_CALLS, _FINE_CUT, _FINE_CUTS = 2, 100, (0.7, 0.9), 5

#: Seconds after a change whose calls are no news: those before it still fill the server's second.
_SETTLING = 1.5

#: Seconds between steps up, what part of the ceiling a step is, and where it stops before it waits.
_STEP_SECONDS, _STEP, _SETTLED = 5.0, 0.1, 0.95

#: Seconds to stay settled before more is tried: the second after trying failed at about the same pace.
_HOLD, _LONG_HOLD, _ABOUT = 60.0, 120.0, 1.25

#: Seconds at full pace without a slow-down after which a site counts as unlimited again.
_FORGIVEN = 600.0


class Memory(NamedTuple):
    """What is known about a site, as JSON values, so that threads, processes and runs can share it."""

    pace: float
    ceiling: Optional[float] = None
    hold: float = _HOLD
    changed_at: float = 0.0  # when the pace was last lowered or judged; calls sent before it are no news
    stepped_at: float = 0.0
    hold_until: float = 0.0
    calls: int = 0  # answered since changed_at, or since the last clean sample
    refused: int = 0
    trial: Optional[float] = None  # share refused before the experiment that is going on ...
    normal: Tuple[float, Optional[float]] = (0.0, None)  # ... and the pace and ceiling if it finds noise
    cuts: int = 0  # fine cuts in a row
    cut_calls: int = 0  # calls answered meanwhile, and how many were refused
    cut_refused: int = 0
    noise: float = 0.0  # share refused at any pace


class Pace:
    """Calls per second that one site may get, at most *full*.  Not thread-safe; *now* is monotonic seconds."""

    def __init__(self, full: float, state: Optional[Dict[str, Any]] = None) -> None:
        self.full = full
        self._is = Memory(**{**{"pace": full}, **(state or {})})

    def state(self) -> Dict[str, Any]:
        """What ``__init__`` takes to go on from here; {} while nothing was refused."""
        known = self._is.ceiling is not None or self._is.noise or self._is.refused
        return self._is._asdict() if known else {}

    @property
    def reduced(self) -> bool:
        """True while the site is known to take less than what was sent before."""
        return self._is.ceiling is not None

    def at(self, now: float) -> float:
        """The pace now, with the steps that have come due."""
        self._advance(now)
        return min(self._is.pace, self.full)

    def batch(self, full_batch: int) -> int:
        """Most calls to send at once."""
        if not self.reduced:
            return full_batch
        return max(1, min(full_batch, int(self._is.pace * _BATCH_SECONDS)))

    def settled(self, now: float, sent_at: float, calls: int, refused: int) -> None:
        """*calls* that went out at *sent_at* were answered, *refused* of them as too fast."""
        self._advance(now)
        if sent_at <= self._is.changed_at + _SETTLING and self._is.changed_at:
            return
        known = self._is
        calls, refused = known.calls + calls, known.refused + refused
        self._is = known._replace(calls=calls, refused=refused)
        share = refused / calls
        beyond = (share - known.noise) / (1 - known.noise)
        if known.trial is not None:
            if calls >= _trial_calls(known.trial):
                self._judge(now, known.trial, share)
        elif calls >= _HEAVY_CALLS and beyond >= _HEAVY:
            self._halve(now, share)
        elif known.ceiling is not None:
            if refused >= _FINE_REFUSED + 2 * known.noise * _FINE_CALLS:
                self._cut(now)
            elif calls >= _FINE_CALLS:
                self._is = self._is._replace(calls=0, refused=0, cuts=0, cut_calls=0, cut_refused=0)
        elif calls >= _SUSPICIOUS_CALLS:
            if beyond >= _SUSPICIOUS:
                self._halve(now, share)
            else:
                self._is = self._is._replace(calls=0, refused=0)

    def _halve(self, now: float, share: float) -> None:
        known = self._is
        self._lower(now, known.pace / 2)
        if known.ceiling is None and share <= _MOST_NOISE:
            self._is = self._is._replace(trial=share, normal=(self.full, None))

    def _judge(self, now: float, before: float, share: float) -> None:
        """Did half the pace help?"""
        self._is = self._is._replace(trial=None, changed_at=now, stepped_at=now, calls=0, refused=0)
        if before / 2 <= share <= _MOST_NOISE:
            pace, ceiling = self._is.normal
            self._is = self._is._replace(pace=pace, ceiling=ceiling, noise=max(self._is.noise, share))

    def _cut(self, now: float) -> None:
        known = self._is
        calls, refused, cuts = known.cut_calls + known.calls, known.cut_refused + known.refused, known.cuts + 1
        normal = known.normal if known.cuts else (known.pace, known.ceiling)
        if cuts > _FINE_CUTS and refused / calls <= _MOST_NOISE:
            self._lower(now, known.pace / 2)
            self._is = self._is._replace(trial=refused / calls, normal=normal)
            return
        low, high = _FINE_CUT
        self._lower(now, known.pace * min(high, max(low, 1 - known.refused / known.calls)))
        self._is = self._is._replace(cuts=cuts, cut_calls=calls, cut_refused=refused, normal=normal)

    def _lower(self, now: float, pace: float) -> None:
        known = self._is
        ceiling = min(known.pace, self.full)
        again = known.ceiling is not None and ceiling <= known.ceiling * _ABOUT
        hold = _LONG_HOLD if again and now >= known.hold_until else known.hold if again else _HOLD
        self._is = known._replace(
            pace=max(min(SLOWEST, self.full), pace), ceiling=ceiling, hold=hold, hold_until=now + hold,
            changed_at=now, stepped_at=now, calls=0, refused=0, cuts=0, cut_calls=0, cut_refused=0,
        )

    def _advance(self, now: float) -> None:
        known = self._is
        if known.changed_at > now + _LONG_HOLD:  # the clock began anew: the machine was restarted
            known = known._replace(changed_at=now, stepped_at=now, hold_until=now + known.hold)
            self._is = known
        if known.ceiling is None or known.trial is not None:
            return
        pace, stepped_at = known.pace, known.stepped_at
        while pace < self.full and now - stepped_at >= _STEP_SECONDS:
            if pace < known.ceiling * _SETTLED:
                pace = min(known.ceiling * _SETTLED, pace + _STEP * known.ceiling)
                stepped_at += _STEP_SECONDS
            elif stepped_at < known.hold_until - _STEP_SECONDS:
                stepped_at = min(now, known.hold_until - _STEP_SECONDS)
                if now < known.hold_until:
                    break
            else:
                pace = min(self.full, pace * (1 + _STEP))
                stepped_at += _STEP_SECONDS
        self._is = known._replace(pace=pace, stepped_at=stepped_at)
        if pace >= self.full and now - stepped_at >= _FORGIVEN:
            self._is = Memory(self.full, changed_at=known.changed_at, noise=known.noise)


def _trial_calls(share: float) -> int:
    """Calls after which noise of *share* would have shown itself."""
    low, high = _TRIAL_CALLS
    return int(min(high, max(low, _TRIAL_REFUSED / share)))
