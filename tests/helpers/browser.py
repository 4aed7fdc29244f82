"""Pages in an installed Chromium, driven by playwright."""

import contextlib
import shutil

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def open_page(browser, url, width=1200, height=900, **context_options):
    """Open a URL in a new context; yields the page, the URLs that it requests and its console messages."""
    context = browser.new_context(viewport=dict(width=width, height=height), **context_options)
    page, requests, messages = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(url)
    try:
        yield page, requests, messages
    finally:
        context.close()
