"""What all widgets share: work beside the kernel's own, states, errors, stored pictures."""

from __future__ import annotations

import io
import os
import sys
import threading
import time

import ipywidgets
import numpy as np
import PIL.Image
import pytest
import traitlets as t
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets.widgets.widget import _instances

from geowb.batch.outputs import VIEW, without_views
from geowb.errors import RequestError
from geowb.widgets import Panel
from geowb.widgets.panel import Thing, escaped, guarded, note
from geowb.widgets.work import Latest, Stopped, Turn

SCRIPT = "<script>alert('x')</script>"


def threads():
    return [one for one in threading.enumerate() if one.name == "geowb-widget"]


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


class Gate:
    """A piece of work that waits until it is let go on, and counts how often it was begun."""

    def __init__(self):
        self.begun, self.opened, self.ended = [], threading.Event(), []

    def job(self, name, *, checks=True):
        def work(turn):
            self.begun.append(name)
            while not self.opened.wait(0.005):
                if checks:
                    turn.check()
            self.ended.append(name)

        return work


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.opened.set()


@pytest.fixture
def failed():
    return []


@pytest.fixture
def hasty():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# --- one thing at a time -------------------------------------------------------------------------


def test_of_many_requests_the_first_and_the_last_are_done(gate, failed):
    latest = Latest(failed.append)
    latest.ask(gate.job(0))
    assert until(lambda: gate.begun == [0])
    for number in range(1, 50):
        latest.ask(gate.job(number))
    gate.opened.set()
    assert latest.wait(5)
    assert gate.ended == [0, 49]
    assert failed == []


def test_stale_work_ends_when_something_newer_is_asked_for(gate, failed):
    latest = Latest(failed.append, stale=True)
    latest.ask(gate.job("old"))
    assert until(lambda: gate.begun == ["old"])
    latest.ask(lambda turn: gate.ended.append("new"))
    assert latest.wait(5)
    assert gate.ended == ["new"]
    assert failed == []


def test_a_thread_lives_only_while_there_is_work(gate):
    before = len(threads())
    latest = Latest(print)
    assert len(threads()) == before
    latest.ask(gate.job("a"))
    latest.ask(gate.job("b"))
    assert len(threads()) == before + 1
    assert latest.busy
    gate.opened.set()
    assert latest.wait(5)
    assert until(lambda: len(threads()) == before)
    assert not latest.busy


def test_work_is_stopped_and_what_waits_is_forgotten(gate, failed):
    latest = Latest(failed.append)
    latest.ask(gate.job("now"))
    assert until(lambda: gate.begun == ["now"])
    latest.ask(gate.job("next"))
    assert latest.stop()
    assert latest.wait(5)
    assert gate.begun == ["now"]
    assert gate.ended == []
    assert not latest.stop()
    latest.ask(lambda turn: gate.ended.append("again"))
    assert latest.wait(5)
    assert gate.ended == ["again"]


def test_waiting_ends_when_the_time_is_over(gate):
    latest = Latest(print)
    latest.ask(gate.job("a"))
    began = time.monotonic()
    assert not latest.wait(0.1)
    assert time.monotonic() - began < 2


def test_work_that_waits_for_itself_is_not_held_up(failed):
    latest, answers = Latest(failed.append), []
    latest.ask(lambda turn: answers.append(latest.wait(5)))
    assert latest.wait(5)
    assert answers == [False]


def test_a_delay_lets_requests_come_to_rest():
    done, latest = [], Latest(print, delay=0.5)
    for number in range(50):
        asked = time.monotonic()
        latest.ask(lambda turn, number=number: done.append((number, time.monotonic())))
    assert latest.wait(5)
    assert [number for number, _ in done] == [49]
    assert done[0][1] - asked >= 0.5


def test_a_delayed_request_can_be_taken_back_at_once():
    done, latest = [], Latest(print, delay=60)
    latest.ask(lambda turn: done.append(1))
    assert latest.stop()
    assert latest.wait(5)
    assert done == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3)])
def test_what_work_raises_is_told_and_the_next_work_is_done(error, failed):
    latest, done = Latest(failed.append), []

    def bad(turn):
        raise error

    latest.ask(bad)
    assert latest.wait(5)
    latest.ask(lambda turn: done.append(1))
    assert latest.wait(5)
    assert done == [1]
    assert not isinstance(error, Exception) or failed == [error]


def test_work_goes_on_after_the_one_who_is_told_of_errors_fails_too():
    def no(error):
        raise error

    latest, done = Latest(no), []
    latest.ask(lambda turn: 1 / 0)
    assert latest.wait(5)
    latest.ask(lambda turn: done.append(1))
    assert latest.wait(5)
    assert done == [1]


def test_errors_of_work_that_nobody_wants_any_more_are_not_told(failed):
    latest, going = Latest(failed.append), threading.Event()

    def bad(turn):
        going.set()
        until(lambda: turn.over)
        raise OSError("the file was closed under it")

    latest.ask(bad)
    assert going.wait(5)
    latest.stop()
    assert latest.wait(5)
    assert failed == []


def test_waiting_never_ends_before_the_work_has_ended(failed, hasty):
    latest, done = Latest(failed.append), []
    for number in range(5000):
        latest.ask(lambda turn, number=number: done.append(number))
        assert latest.wait(5)
        assert done[-1] == number
    assert failed == []


def test_many_threads_may_ask_at_once(failed):
    latest, done = Latest(failed.append), []

    def ask(number):
        for i in range(50):
            latest.ask(lambda turn, i=i: done.append((number, i)))

    asking = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert latest.wait(10)
    assert failed == []
    assert 1 <= len(done) <= 300
    assert len(threads()) == 0 or until(lambda: not threads())


def test_a_turn_tells_how_far_it_is_but_not_too_often():
    told = []
    turn = Turn(lambda fraction, text: told.append((fraction, text)))
    for number in range(10_000):
        turn.at(number / 10_000, "reading")
    assert 1 <= len(told) < 50
    assert told[0] == (0.0, "reading")
    turn.over = True
    with pytest.raises(Stopped):
        turn.at(1.0)
    with pytest.raises(Stopped):
        turn.check()


# --- states --------------------------------------------------------------------------------------


class Mine(Panel):
    """A panel whose callbacks can be made to fail."""

    number = t.Int(0)

    def __init__(self):
        super().__init__("Mine")
        self.button = ipywidgets.Button()
        self.button.on_click(self._pressed)
        self.children = (*self.children, self.button)
        self.drawn = 0
        self.say("Nothing yet.", "empty")

    @guarded
    def _pressed(self, _):
        raise ZeroDivisionError("pressed in vain")

    @t.observe("number")
    @guarded
    def _numbered(self, change):
        if change["new"] < 0:
            raise RequestError("number is below 0: give 0 or more.")
        self.say(f"number {change['new']}")

    def picture(self):
        self.drawn += 1
        return super().picture()


def head(panel):
    return panel._head


def test_states_are_shown_in_the_head_as_they_can_be_read():
    panel = Mine()
    assert (panel.state, panel.message, panel.error) == ("empty", "Nothing yet.", None)
    panel.number = 4
    assert (panel.state, panel.message) == ("result", "number 4")
    assert (head(panel).state, head(panel).text, head(panel).title) == (
        "result",
        "number 4",
        "Mine",
    )
    with pytest.raises(t.TraitError, match="empty"):
        panel.state = "bored"


def test_what_a_callback_raises_is_shown_with_its_traceback_and_goes_away_again():
    panel = Mine()
    panel.button.click()
    assert panel.state == head(panel).state == "error"
    assert isinstance(panel.error, ZeroDivisionError)
    assert head(panel).text == panel.message == "ZeroDivisionError: pressed in vain"
    assert "_pressed" in head(panel).detail
    assert "Traceback" in head(panel).detail
    panel.number = 2
    assert (panel.state, panel.error, head(panel).detail) == ("result", None, "")


def test_an_error_of_geowb_is_a_sentence_without_a_traceback():
    panel = Mine()
    panel.number = -1
    assert panel.state == "error"
    assert panel.message == "number is below 0: give 0 or more."
    assert head(panel).detail == ""


def test_what_work_raises_is_shown_in_the_panel():
    panel = Mine()

    def bad(turn):
        raise LookupError("no such layer")

    panel.work(bad, "Looking ...")
    assert panel.wait(5)
    assert (panel.state, panel.message) == ("error", "LookupError: no such layer")
    assert "bad" in head(panel).detail
    assert (head(panel).fraction, head(panel).stoppable) == (None, False)
    panel.work(lambda turn: panel.say("found"))
    assert panel.wait(5)
    assert (panel.state, panel.error) == ("result", None)


@pytest.mark.parametrize("name", ["state", "message", "error"])
def test_an_observer_that_raises_does_not_end_the_panel(name):
    panel, calls = Mine(), []

    def bad(change):
        calls.append(change["new"])
        raise ValueError("an observer of mine")

    panel.observe(bad, name)
    panel.work(lambda turn: panel.say("done") if name != "error" else 1 / 0)
    assert panel.wait(5)
    assert calls
    panel.unobserve(bad, name)
    panel.work(lambda turn: panel.say("works again"))
    assert panel.wait(5)
    assert (panel.state, panel.message) == ("result", "works again")
    assert head(panel).text == "works again"


def test_long_work_has_a_bar_and_a_button_that_stops_it(gate):
    panel = Mine()

    def work(turn):
        turn.at(0.25, "a quarter")
        gate.job("long")(turn)

    panel.work(work, "Counting ...")
    assert (panel.state, head(panel).stoppable) == ("loading", True)
    assert until(lambda: gate.begun == ["long"])
    assert (head(panel).fraction, head(panel).text) == (0.25, "a quarter")
    head(panel)._handle_custom_msg({"kind": "stop"}, [])
    assert panel.wait(5)
    assert gate.ended == []
    assert panel.state != "loading"
    assert (head(panel).fraction, head(panel).stoppable) == (None, False)
    assert "topped" in panel.message


def test_a_stop_when_nothing_goes_on_changes_nothing():
    panel = Mine()
    panel.number = 3
    panel.stop()
    assert (panel.state, panel.message) == ("result", "number 3")


def test_work_that_says_nothing_at_its_end_is_over_all_the_same():
    panel = Mine()
    panel.number = 3
    panel.work(lambda turn: None, "Looking ...")
    assert panel.wait(5)
    assert panel.state != "loading"
    assert (head(panel).fraction, head(panel).stoppable) == (None, False)


def test_short_work_does_not_flicker():
    panel, states = Mine(), []
    panel.number = 1
    panel.observe(lambda change: states.append(change["new"]), "state")
    panel.work(lambda turn: panel.say("quick"))
    assert panel.wait(5)
    assert states == []


def test_a_closed_panel_stops_its_work_and_leaves_neither_thread_nor_part(gate):
    before = set(_instances)
    panel = Mine()
    panel.work(gate.job("long"), "Counting ...")
    assert until(lambda: gate.begun == ["long"])
    panel.close()
    assert until(lambda: not threads())
    assert gate.ended == []
    assert [type(_instances[key]).__name__ for key in set(_instances) - before] == []


def test_a_trait_for_arrays_tells_of_each_time_it_is_set():
    class Holder(t.HasTraits):
        value = Thing(None)

    holder, seen = Holder(), []
    holder.observe(lambda change: seen.append(change["new"]), "value")
    first, second = np.zeros(3), np.zeros(3)
    for given in (first, second, second):
        holder.value = given
    assert [id(one) for one in seen] == [id(first), id(second), id(second)]


def test_texts_of_others_are_made_safe():
    made = escaped(SCRIPT + "&\"'")
    assert not set("<>\"'") & set(made)
    assert note("<b>mine</b>").value == "<b>mine</b>"


# --- what a notebook keeps -----------------------------------------------------------------------


class Page(DisplayPublisher):
    """What a cell shows, with the updates that come later."""

    def __init__(self):
        super().__init__()
        self.shown, self.updates = [], []

    def publish(self, data, metadata=None, *, transient=None, update=False, **_):
        where = self.updates if update else self.shown
        where.append({"data": data, "metadata": metadata or {}, "transient": transient or {}})


@pytest.fixture
def page(monkeypatch):
    InteractiveShell.clear_instance()
    shell, page = InteractiveShell.instance(), Page()
    monkeypatch.setattr(shell, "display_pub", page)
    yield page
    InteractiveShell.clear_instance()


def decoded(output):
    import base64

    return PIL.Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"])))


def test_a_widget_leaves_a_view_and_a_picture_that_are_marked(page):
    panel = Mine()
    panel.number = 5
    panel._ipython_display_()
    view, picture = page.shown
    assert view["metadata"] == {"geowb": "view", "process": os.getpid()}
    assert view["data"][VIEW]["model_id"] == panel.model_id
    assert picture["metadata"]["geowb"] == "picture"
    assert decoded(picture).width > 100
    assert "number 5" in picture["data"]["text/plain"]
    assert page.updates == []


def test_without_its_view_a_notebook_keeps_the_picture_alone(page):
    panel = Mine()
    panel._ipython_display_()
    outputs = [{"output_type": "display_data", **one} for one in page.shown]
    notebook = {"cells": [{"id": "a", "outputs": outputs}], "metadata": {}}
    (removed,) = without_views(notebook)
    assert removed.model == panel.model_id
    (kept,) = notebook["cells"][0]["outputs"]
    assert list(kept["data"]) == ["text/plain", "image/png"]


def test_the_picture_waits_for_work_that_is_going_on(page):
    panel = Mine()
    panel.work(lambda turn: (time.sleep(0.2), panel.say("drawn at last")), "Drawing ...")
    panel._ipython_display_()
    assert "drawn at last" in page.shown[1]["data"]["text/plain"]


def test_waiting_brings_the_stored_picture_up_to_date(page):
    panel = Mine()
    panel._ipython_display_()
    for number in range(1, 20):
        panel.number = number
    assert panel.wait(5)
    assert "number 19" in page.updates[-1]["data"]["text/plain"]
    assert page.updates[-1]["metadata"]["geowb"] == "picture"
    assert page.updates[-1]["transient"] == page.shown[1]["transient"]
    assert panel.drawn <= 3  # not one for each of the twenty


def test_the_stored_picture_follows_by_itself_after_a_moment(page):
    panel = Mine()
    panel._ipython_display_()
    panel.number = 7
    assert until(lambda: page.updates)
    assert "number 7" in page.updates[-1]["data"]["text/plain"]


def test_an_error_is_in_the_stored_picture_too(page):
    panel = Mine()
    panel._ipython_display_()
    panel.button.click()
    panel.wait(5)
    assert "pressed in vain" in page.updates[-1]["data"]["text/plain"]


def test_nothing_is_drawn_for_a_panel_that_is_not_displayed():
    panel = Mine()
    panel.number = 3
    panel.wait(5)
    assert panel.drawn == 0


def test_a_closed_panel_does_not_touch_its_picture_any_more(page):
    panel = Mine()
    panel._ipython_display_()
    panel.number = 8
    panel.close()
    time.sleep(1.0)
    assert page.updates == []


def test_a_picture_that_cannot_be_drawn_leaves_the_widget_usable(page, monkeypatch):
    panel = Mine()
    monkeypatch.setattr(panel, "picture", lambda: 1 / 0)
    panel._ipython_display_()
    assert page.shown[0]["metadata"]["geowb"] == "view"
    assert panel.state == "error"
    assert "ZeroDivisionError" in panel.message


def test_a_long_message_is_wrapped_in_the_picture():
    panel = Mine()
    panel.say("word " * 400)
    image = PIL.Image.open(io.BytesIO(panel.picture()))
    assert image.width < 1000
    assert image.height > 200


@pytest.mark.parametrize("text", ["$x_$", "a\\b$", "∑ ✓ é", SCRIPT, "", "x" * 5000])
def test_any_text_can_be_drawn(text):
    panel = Mine()
    panel.say(text)
    assert PIL.Image.open(io.BytesIO(panel.picture())).width > 100
