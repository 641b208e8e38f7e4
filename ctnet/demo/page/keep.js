// Keeps photograph, palette and history in the browser's own storage, so that they survive a reload,
// a lost connection and the back button. Each tab has its own entry; entries go after a week.

const KEPT_FOR = 7 * 24 * 3600 * 1000; // milliseconds

class Keeper {
  constructor() {
    this.key = sessionStorage.getItem("ctnet-page") ?? crypto.randomUUID?.() ?? String(Math.random());
    sessionStorage.setItem("ctnet-page", this.key);
    this.entry = null; // what is kept: source, ids, width, height, tasks, undo
    this.waiting = Promise.resolve();
  }

  async store(mode, act) {
    const database = await new Promise((resolve, reject) => {
      const request = indexedDB.open("ctnet-demo", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("pages");
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    try {
      return await new Promise((resolve, reject) => {
        const transaction = database.transaction("pages", mode);
        const request = act(transaction.objectStore("pages"));
        transaction.oncomplete = () => resolve(request?.result);
        transaction.onerror = transaction.onabort = () => reject(transaction.error);
      });
    } finally {
      database.close();
    }
  }

  // Storage may be full or forbidden: painting goes on without it.
  keep(changes) {
    this.entry = { ...this.entry, ...changes, time: Date.now() };
    const entry = this.entry;
    this.waiting = this.waiting
      .then(() => this.store("readwrite", (pages) => pages.put(entry, this.key)))
      .catch(() => {});
  }

  async read() {
    try {
      const found = await this.store("readwrite", (pages) => {
        const old = pages.openCursor();
        old.onsuccess = () => {
          const cursor = old.result;
          if (!cursor) return;
          if (Date.now() - cursor.value.time > KEPT_FOR) cursor.delete();
          cursor.continue();
        };
        return pages.get(this.key);
      });
      this.entry = found ?? null;
    } catch {
      this.entry = null;
    }
    return this.entry;
  }
}
