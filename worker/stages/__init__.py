"""The stages of the pipeline that are more than one call: build, roll out, shred."""
