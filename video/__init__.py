"""Predictions over time: frames of a video or webcam, smoothed probabilities, the annotated video, the timeline."""
