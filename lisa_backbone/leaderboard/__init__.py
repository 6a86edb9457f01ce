"""The leaderboard: backbones under the same tasks, seeds and schedules, by one command."""
