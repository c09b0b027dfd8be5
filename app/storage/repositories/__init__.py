"""Every query of Lethe, one module per aggregate. Nothing here commits."""
