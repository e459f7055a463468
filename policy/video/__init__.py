"""Reading video. The one place in the project where a video, or a folder of frames, is decoded."""

from policy.video.clip import ASSUMED_FPS, TIME_SLACK, Clip, Part, Picture, crop_frame
from policy.video.container import open_video, video_stream
from policy.video.content import file_sha256
from policy.video.parallel import map_clips, read_clips
from policy.video.pictures import frame_rate, iterate_frames, iterate_pictures
from policy.video.reading import Frames, read_clip, read_frames
from policy.video.sampling import SAMPLINGS, even_indices, frame_indices, frame_rng

__all__ = [
    "ASSUMED_FPS",
    "SAMPLINGS",
    "TIME_SLACK",
    "Clip",
    "Frames",
    "Part",
    "Picture",
    "crop_frame",
    "even_indices",
    "file_sha256",
    "frame_indices",
    "frame_rate",
    "frame_rng",
    "iterate_frames",
    "iterate_pictures",
    "map_clips",
    "open_video",
    "read_clip",
    "read_clips",
    "read_frames",
    "video_stream",
]
