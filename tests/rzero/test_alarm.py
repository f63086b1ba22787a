"""The alarm's forms on values worked out by hand, and what a monitor makes of them."""

from __future__ import annotations

import math

import pytest

from rzero.alarm import RAISED, Alarm, Form, number, share
from rzero.collapse import CollapseMonitor, Limit

EARLIER = Form(intercept=-1.0, weights={"signals/previous_same": 2.0, "signals/own_answer": 1.0}, curve=share)
ALONE = Form(intercept=0.0, weights={"signals/own_answer": 0.0}, curve=share)
KINDS = Form(intercept=-1.0, weights={"signals/cells": 0.5}, curve=number)


def test_a_form_is_a_sum_through_a_curve() -> None:
    assert EARLIER({"signals/previous_same": 0.5, "signals/own_answer": 0.0}) == pytest.approx(0.5)
    assert EARLIER({"signals/previous_same": 1.0, "signals/own_answer": math.log(3) - 1}) == pytest.approx(0.75)
    assert KINDS({"signals/cells": 8.0}) == 3.0
    assert KINDS({"signals/cells": 2.0}) == 1.0, "no effective number is below 1"
    assert (share(-1e6), share(1e6)) == (0.0, 1.0)


def test_the_first_form_that_sees_its_signals_counts_and_nothing_is_made_up() -> None:
    alarm = Alarm(forms={"label_accuracy": [EARLIER, ALONE], "families": [KINDS]})
    both = {"signals/previous_same": 1.0, "signals/own_answer": 9.0, "signals/cells": 8.0}
    assert alarm(both) == pytest.approx({"alarm/label_accuracy": share(10.0), "alarm/families": 3.0})
    assert alarm({"signals/own_answer": 9.0}) == {"alarm/label_accuracy": 0.5}
    assert alarm({"curriculum/agreement": 0.7}) == {}


@pytest.mark.parametrize(("cells", "raised"), [(8.0, 0.0), (5.9, 1.0)])
def test_a_monitor_says_whether_an_estimate_is_outside_of_its_limits(cells: float, raised: float) -> None:
    limits = {"kinds": Limit(metric="alarm/families", low=2.0), "kl": Limit(metric="kl", high=0.0)}
    monitor = CollapseMonitor(limits=limits, alarm=Alarm(forms={"families": [KINDS]}))
    judged = monitor.judge({"signals/cells": cells, "solver/kl": 9.0})
    assert judged == {"alarm/families": pytest.approx(cells / 2 - 1), RAISED: raised}
    assert monitor.judge({"solver/kl": 9.0}) == {}
    assert CollapseMonitor(limits=limits).judge({"signals/cells": cells}) == {}
