"""The lesson's screenshots: every tab, wide and narrow, light and dark, in Chromium."""

import asyncio
import shutil
import threading
from contextlib import contextmanager

from common.errors import demand

from . import _page, _start
from ._client import Hub, Server

WIDE, PHONE = {"width": 1180, "height": 780}, {"width": 390, "height": 780}
QUESTIONS = ("Where does Ilmo live?", "And where does he work?", "Who is his best friend?")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def opened(app):
    """The page's address, served by a thread of this process."""
    with _start.bound("127.0.0.1", 0) as sock:
        ended, loop = asyncio.Event(), asyncio.new_event_loop()

        async def serve():
            await _page.serve(app, sock, ended.wait)

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
        thread.start()
        try:
            yield _start.address(sock)
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join(20)


class Camera:
    """A window on the page. keep(file): what to do with a picture."""

    def __init__(self, tab, folder, keep):
        self.tab, self.folder, self.keep = tab, folder, keep

    def shoot(self, name, pause=400):
        self.tab.wait_for_timeout(pause)
        path = self.folder / f"{name}.png"
        self.tab.screenshot(path=path)
        self.keep(path)

    def say(self, text, answers):
        self.tab.fill("#say textarea", text)
        self.tab.press("#say textarea", "Enter")
        self.tab.wait_for_function(f"document.querySelectorAll('#chat .bot.message').length >= {answers}")
        self.tab.wait_for_function("document.querySelector('#figures .figures, #figures .trouble')")

    def go(self, name, wanted):
        self.tab.get_by_role("tab", name=name).click()
        self.tab.wait_for_selector(wanted)


def walk(camera):
    """Through all tabs."""
    tab = camera.tab
    tab.wait_for_function("document.querySelector('#model input')?.value")
    for n, question in enumerate(QUESTIONS, 1):
        camera.say(question, n)
    camera.shoot("chat")
    tab.locator("#dark").click()
    camera.shoot("chat-dark")
    tab.locator("#dark").click()
    camera.go("Sampler", "#sampler-next .bars")
    tab.wait_for_selector("#sampler-course .tokens")
    camera.shoot("sampler")
    camera.go("Tokens", "#tokens-out .tokens")
    camera.shoot("tokens")
    camera.go("Attention", "#attention-out .heads")
    camera.shoot("attention")
    camera.go("KV cache", "#blocks-out .blocks")
    tab.get_by_role("button", name="Send six requests").click()
    tab.wait_for_function("document.querySelectorAll('#blocks-out i.own').length > 8")
    camera.shoot("blocks", pause=0)
    camera.go("Documents", "#upload")
    tab.get_by_role("button", name="A chronicle").click()
    tab.wait_for_selector("#held .held")
    tab.press("#ask textarea, #ask input", "Enter")
    tab.wait_for_selector("#answer .cite, #answer .uncited")
    tab.wait_for_timeout(1500)
    camera.shoot("documents")


def pages(lab):
    """Screenshots of every tab, wide; of the chat also dark, and as a phone shows it."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    demand(program, "no screenshots: Chromium is not installed here")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        demand(False, "no screenshots: pip install -c constraints.txt playwright")
    arguments = "--model", lab.folder, "--inspect", "--tokens", 2048, "--device", lab.run.device.type
    shots = []

    def keep(path):
        shots.append(path)
        lab.keep(path)

    with (
        _start.server(*arguments, log=lab.run.folder / "server.log") as url,
        opened(_page.create(Hub([Server(url)]))) as page,
        sync_playwright() as p,
    ):
        browser = p.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for size, work in ((WIDE, walk), (PHONE, phone)):
            tab = browser.new_page(viewport=size)
            tab.set_default_timeout(120_000)
            tab.goto(page)
            work(Camera(tab, lab.run.folder, keep))
            tab.close()
        browser.close()
    return {"screenshots": len(shots)}


def phone(camera):
    camera.tab.wait_for_function("document.querySelector('#model input')?.value")
    camera.say(QUESTIONS[0], 1)
    camera.shoot("phone")
    camera.go("Sampler", "#sampler-next .bars")
    camera.shoot("phone-sampler")
