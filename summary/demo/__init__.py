"""What the demo page needs beyond Gradio: request filtering, limits for uploads, bundles to download."""
