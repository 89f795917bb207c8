"""What the model is asked, and how a turn of the conversation is written."""

TRANSCRIBE = (
    "Transcribe the text of this page.",
    "Transcribe this page.",
    "Transcribe the text in this image.",
    "Read the text in this image.",
    "OCR this image.",
    "Extract all text from this image.",
    "Convert this page to markdown.",
    "What does this page say?",
    "Extract the text from the document page as markdown.",
    "Return the plain text of this page in reading order.",
    "Transcribe the document.",
    "Read this page and write out its text.",
    "Text Recognition:",
    "OCR",
)
DESCRIBE = (
    "Describe this image.",
    "Describe this page.",
    "Describe the image in one sentence.",
    "Caption this image.",
    "What is shown in this image?",
    "Write a short caption for this figure.",
    "Give a one-sentence description of this page.",
    "What is on this page?",
)
SYSTEM = "You are a helpful assistant."
