// embed-amd.js asks require.js where it lies, to find its icon fonts: here, not below the page that shows the widget.
requirejs.config({
  paths: { "@jupyter-widgets/html-manager": new URL("html-manager", document.currentScript.src).href },
});
