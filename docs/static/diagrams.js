// Draws the diagrams of a page with mermaid.tiny.js, in the colours of the theme that the reader sees.
const theme = document.body.dataset.theme;
const isDark = theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
mermaid.initialize({ startOnLoad: false, theme: isDark ? "dark" : "default" });
mermaid.run();
