"""From a question to a request and its plan, before any worker sees it.

options        what may be given with a question, and its defaults
media_input    what a question is about: files, folders or frames, and which frames are chosen
fit_media      media are given as much room as the text leaves
prompt         token ids of a question, and where media and the last question are in them
builder        all of it: request and plan
generation_config   how a checkpoint wants its answers made
embedded       what the embedded model can do, and the warning about anything else
bounded_text   texts and pipes that users name, read as far as they can be of use
ranks          how many ranks there are, and what they run on
tokenization/  text to token ids and back
"""
