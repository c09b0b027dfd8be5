"""Releases on disk: weights with their manifests, adapters, and exports for engines."""
