"""Text to token ids and back.

tokenizer        a checkpoint's tokenizer, loaded without code of the folder
chat_template    where a checkpoint's chat template is, and rendering it
template_renderer, template_process   a process with limits in which templates render
prompt_encoding  a rendered prompt as ids, with no control token from a user's text
stop_ids         which tokens end an answer
detokenizer      text that can be shown: no half characters, nothing of a stop string
"""
