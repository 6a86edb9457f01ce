"""Size, speed and memory of operators, backbones and whole models, side by side: see docs/performance.md."""
