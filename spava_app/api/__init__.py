"""What users call: `from spava_app import VideoQA, TextQA`.

video_qa, text_qa   the two objects
session        what both share: a model, its workers, and the way of a question through them
conversation, batch, streaming   several questions about one video; many; an answer as it comes
answer         what comes back
question_log   what is logged of a question, and what never is
"""
