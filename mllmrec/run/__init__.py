"""What a run writes: its folder, logs, metrics, rollouts and costs, and the settings that it keeps."""
