"""The demo: paint tasks on a photograph in the browser, see the composite change (``ctnet demo``).

``files.py`` checks what a browser sends, ``studio.py`` keeps a page's photograph, palette and
encodings, ``views.py`` draws the answers, ``app.py`` is the page and ``server.py`` serves it;
``page/`` holds what runs in the browser.
"""

import os

# gradio reads these when it is imported, or a page is made. The latter two spare it statistics over
# the last 10,000 events, which it would make again after each event: after each stroke of a brush.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
