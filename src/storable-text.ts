/**
 * Text of foreign messages may hold what a database's text cannot: NUL, half a surrogate pair. Such text is written as JSON
 * behind a mark. One-to-one: two texts never become one.
 */
const mark = "\u0001json:";

/** `text` in a form that every database stores. */
export function storable(text: string): string {
  if (text.isWellFormed() && !text.includes("\u0000") && !text.startsWith(mark)) return text;
  return mark + JSON.stringify(text);
}

/** The text that `storable` was given. */
export function restored(text: string): string {
  return text.startsWith(mark) ? (JSON.parse(text.slice(mark.length)) as string) : text;
}
