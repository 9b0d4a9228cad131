"""The rate-distortion explorer of `napari_hyperthumb.explore`: engine, pictures, page, panel."""
