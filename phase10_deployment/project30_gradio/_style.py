"""How the page looks: a theme without fonts from elsewhere, a little CSS; headers that keep it at home."""

from pathlib import Path

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

# The page loads nothing from elsewhere, sends nothing elsewhere, and is no frame of another's page. Gradio
# writes scripts and styles into its page, which is why these may be inline.
POLICY = ("default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; img-src 'self' data: blob:; "
          "connect-src 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'; "
          "base-uri 'self'")  # fmt: skip
HEADERS = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
           (b"referrer-policy", b"no-referrer")]  # fmt: skip


class AtHome:
    """ASGI middleware: HEADERS on every answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def with_headers(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def theme():
    return gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", radius_size="lg", font=SANS, font_mono=MONO
    ).set(
        body_background_fill="#fbfbfc", body_background_fill_dark="#101318",
        block_background_fill="white", block_background_fill_dark="#171b22",
        block_border_width="1px", block_border_color="#e8eaee", block_border_color_dark="#262c36",
        block_shadow="none", block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent", block_label_border_width="0px",
        input_background_fill="white", input_background_fill_dark="#12161c",
        button_primary_background_fill="#2f63c8", button_primary_background_fill_hover="#2756b3",
        button_primary_background_fill_dark="#3b74e0", button_primary_background_fill_hover_dark="#4a82ec",
    )  # fmt: skip


CSS = (Path(__file__).parent / "page.css").read_text("utf-8")

# Gradio gives its round buttons no name, and somebody may not see the arrow on them.
JS = """() => {
  const names = { 'submit-button': 'Send', 'stop-button': 'Stop' };
  const label = () => {
    for (const [kind, name] of Object.entries(names))
      document.querySelectorAll('button.' + kind + ':not([aria-label])').forEach(b => b.ariaLabel = name);
  };
  new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
  label();
}"""
