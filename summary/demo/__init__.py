"""The demo page: request filter, limits of uploads, downloadable bundles, and the page itself, on Gradio."""
