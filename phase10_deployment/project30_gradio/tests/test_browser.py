"""In Chromium, as a person would: type, stream, stop, a second turn, upload, every tab; dark, and a phone."""

import shutil

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")
from playwright import sync_api as playwright

from common.trial import model_folder
from phase10_deployment.project28_serving import _server, _trial
from phase10_deployment.project28_serving.api import create_app
from phase10_deployment.project30_gradio import _page
from phase10_deployment.project30_gradio._client import Hub, Server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
PATIENCE = 120_000  # milliseconds: what is waited for must come, however busy the machine is


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = model_folder(tmp_path_factory.mktemp("m") / "m", loud=8, max_seq_len=512, n_layer=1, d_model=16)
    return _trial.service_of(folder)


@pytest.fixture(scope="module")
def address(service):
    with (
        _server.in_thread(create_app(service, inspect=True)) as url,
        _server.in_thread(_page.create(Hub([Server(url)]))) as page,
    ):
        yield page


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, address):
    """A fresh window on the page. `asked`: the hosts that it has asked; `faults`: its scripts' errors."""
    context = browser.new_context(viewport={"width": 1200, "height": 850})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.asked, tab.faults = set(), []
    tab.on("request", lambda request: tab.asked.add(request.url.split("/")[2]))
    tab.on("pageerror", lambda error: tab.faults.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("#say textarea")
    tab.wait_for_function("document.querySelector('#model input')?.value")
    yield tab
    assert tab.asked <= {address.split("/")[2], ""}, "it has asked a host that is not its own"
    assert not tab.faults, tab.faults
    context.close()


def say(tab, text):
    tab.fill("#say textarea", text)
    tab.press("#say textarea", "Enter")


def answers(tab):
    return tab.locator("#chat .bot.message")


def done(tab):
    """Until there are figures under the answer."""
    tab.wait_for_function("document.querySelector('#figures .figures, #figures .trouble')")


def test_type_stream_second_turn_and_keep(tab):
    """Two turns; figures; a new conversation; the earlier one is there after the page is loaded again."""
    say(tab, "ab")
    done(tab)
    assert "tokens/s" in tab.inner_text("#figures") and answers(tab).count() == 1
    say(tab, "cd")
    playwright.expect(answers(tab)).to_have_count(2, timeout=PATIENCE)
    done(tab)
    tab.get_by_role("button", name="New conversation").click()
    playwright.expect(answers(tab)).to_have_count(0, timeout=PATIENCE)
    tab.reload()
    tab.wait_for_function("document.querySelector('#model input')?.value")
    tab.get_by_label("Earlier conversations").click()
    tab.get_by_role("option", name="ab").click()
    playwright.expect(answers(tab)).to_have_count(2, timeout=PATIENCE)


def test_stop(tab, service):
    """The button that stops is there while an answer comes; it frees the request."""
    tab.get_by_role("button", name="How it is drawn").click()
    tab.get_by_label("number input for Tokens at most").fill("2000")
    tab.get_by_label("number input for Tokens at most").press("Tab")
    say(tab, "x")
    tab.get_by_role("button", name="Stop").click()
    done(tab)
    assert _trial.comes(lambda: not service.loop.snapshot["running"])


def test_what_a_model_writes_does_nothing(tab, monkeypatch):
    """HTML, scripts, images and styles in an answer: shown as text, and nothing is loaded or run."""
    from phase10_deployment.project30_gradio import _talk

    evil = ("<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script>\n"
            "![x](http://evil.example/?q=1)\n\n<style>body{display:none}</style>"
            "[link](javascript:window.pwned=1)"
            "\n```html\n<img src=http://evil.example/y>\n```")  # fmt: skip

    async def reply(server, model, talk, settings, stop=None):
        talk.messages.append({"role": "assistant", "content": evil})
        yield evil

    monkeypatch.setattr("phase10_deployment.project30_gradio._chat_tab.reply", reply)
    say(tab, evil)
    playwright.expect(answers(tab)).to_have_count(1, timeout=PATIENCE)
    tab.wait_for_timeout(300)
    assert tab.evaluate("window.pwned") is None and tab.is_visible("#say textarea")
    assert "window.pwned=1" in tab.inner_text("#chat") and tab.locator("#chat .message img").count() == 0
    assert tab.locator("#chat .message a[href^='javascript']").count() == 0
    assert _talk.MOST["saved"] == 30


def test_every_tab(tab, tmp_path):
    """Each shows what it is for."""
    wanted = {"Sampler": ("#sampler-next .bars", "bits of choice"),
              "Tokens": ("#tokens-out .tokens", "tokens for"),
              "Attention": ("#attention-out .heads", "head 3"),
              "KV cache": ("#blocks-out .blocks", "are free")}  # fmt: skip
    for name, (place, text) in wanted.items():
        tab.get_by_role("tab", name=name).click()
        tab.wait_for_selector(place)
        assert text in tab.inner_text(place.split()[0]), name
    tab.get_by_role("tab", name="Documents").click()
    path = tmp_path / "town.txt"
    path.write_text("Zelda hid the key under the mat. The river is cold.", "utf-8")
    tab.set_input_files("#upload input[type=file]", str(path))
    tab.wait_for_selector("#held .held")
    tab.fill("#ask textarea, #ask input", "Where is the key?")
    tab.press("#ask textarea, #ask input", "Enter")
    tab.wait_for_selector("#passages mark")
    assert "Zelda hid the key under the mat." in tab.inner_text("#passages mark")


def test_keyboard_phone_and_dark(tab):
    """Nothing is wider than a phone; tabs answer to arrow keys; dark is dark; fields have names."""
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.wait_for_timeout(200)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 391
    unnamed = tab.evaluate("""[...document.querySelectorAll('textarea, input:not([type=file]), button')]
        .filter(e => e.offsetParent && !(e.labels?.length || e.ariaLabel || e.innerText.trim() || e.title
                || e.placeholder || e.getAttribute('aria-labelledby')))
        .map(e => e.outerHTML.slice(0, 120))""")
    assert not unnamed, unnamed
    bright = "getComputedStyle(document.querySelector('#chat')).backgroundColor"
    before = tab.evaluate(bright)
    tab.locator("#dark").click()
    tab.wait_for_function(f"{bright} !== '{before}'")
