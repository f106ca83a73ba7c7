"""A conversation template of ours as Jinja, for transformers."""

from povid_jax.data.text import Template


def chat_template(template: Template) -> str | None:
  """A conversation template as Jinja, for transformers' processors.

  Messages hold text, or a list of {"type": "image"} and {"type": "text"}
  parts; pictures come first, as LLaVA has them.
  """
  if "{text}" not in template.first:
    return None
  before, after = template.first.split("{text}")
  later, later_after = template.later.split("{text}")
  quote = lambda s: "{{ " + repr(s) + " }}" if s else ""
  trimmed = " | trim" if template.trim else ""
  said = (
    "{% if message['content'] is string %}"
    + f"{{{{ message['content']{trimmed} }}}}"
    + "{% else %}"
    + "{% for part in message['content'] if part['type'] == 'image' %}"
    + quote(template.image)
    + "{% endfor %}"
    + "{% for part in message['content'] if part['type'] == 'text' %}"
    + f"{{{{ part['text']{trimmed} }}}}"
    + "{% endfor %}{% endif %}"
  )
  answer, answer_after = template.answer.split("{text}")
  return (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{% if loop.first %}"
    + quote(before)
    + said
    + quote(after)
    + "{% else %}"
    + quote(later)
    + said
    + quote(later_after)
    + "{% endif %}"
    "{% elif message['role'] == 'assistant' %}"
    + quote(answer)
    + said
    + quote(answer_after + template.end)
    + "{% endif %}{% endfor %}"
  )
