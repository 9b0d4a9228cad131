"""The napari dock widgets. Each reads its controls, calls the codec, and shows what comes back."""
