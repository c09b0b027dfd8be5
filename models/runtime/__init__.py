"""Where models run: devices, memory, processes that train together, and progress bars."""
