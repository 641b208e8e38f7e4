// Browsers start no workers from files. Where the site is opened as files, a script that would be a
// worker, the search, runs in a hidden frame, with the same messages.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.view = frame.contentWindow;
      // Messages are copies and come later, as those of workers.
      this.view.postMessage = (message) => {
        const event = new MessageEvent("message", { data: structuredClone(message) });
        setTimeout(() => {
          this.onmessage?.(event);
          this.dispatchEvent(event);
        });
      };
      const script = this.view.document.createElement("script");
      this.ready = new Promise((resolve, reject) => {
        script.onload = resolve;
        script.onerror = reject;
      });
      script.src = url;
      this.view.document.body.append(script);
    }

    postMessage(message) {
      const data = structuredClone(message);
      this.ready.then(() => this.view.dispatchEvent(new this.view.MessageEvent("message", { data })));
    }

    terminate() {
      this.view.frameElement.remove();
    }
  };
}
