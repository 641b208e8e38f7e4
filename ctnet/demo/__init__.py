"""The demo: paint tasks on a photograph in the browser, see the composite change (``ctnet demo``).

``files.py`` checks what a browser sends, ``studio.py`` keeps a page's photograph, palette and
encodings, ``views.py`` draws the answers, ``app.py`` is the page and ``server.py`` serves it;
``page/`` holds what runs in the browser.
"""

import os

# gradio reads them when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
