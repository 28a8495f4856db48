//! The little Markdown that this project's references are written in, as a
//! manual page: headings, paragraphs, lists, tables, code.

/// A page of `section` called `name`. The text's own title is left out.
pub fn page(name: &str, section: u8, about: &str, text: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH {name} {section} \"\" \"fullgate {version}\"\n.SH NAME\n{name} \\- {about}\n\
         .SH DESCRIPTION\n"
    );
    let mut header: Vec<String> = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
            page += if in_code {
                ".PP\n.nf\n.RS 4\n"
            } else {
                ".RE\n.fi\n"
            };
        } else if in_code {
            page += &format!("{}\n", plain(line));
        } else if let Some(code) = line.strip_prefix("    ") {
            page += &format!(".nf\n.RS 4\n{}\n.RE\n.fi\n", plain(code));
        } else if let Some(title) = line.strip_prefix("## ") {
            page += &format!(".SH {}\n", plain(&title.replace('`', "")));
        } else if line.starts_with("# ") || line.starts_with("| ---") {
        } else if let Some(row) = line.strip_prefix("| ") {
            let cells: Vec<String> = cells(row);
            if header.is_empty() {
                header = cells;
            } else {
                page += &table_row(&header, &cells);
            }
        } else if let Some(item) = line.strip_prefix("- ") {
            page += &format!(".IP \\(bu 2\n{}\n", inline(item));
        } else if line.is_empty() {
            header.clear();
            page += ".PP\n";
        } else {
            page += &format!("{}\n", inline(line.trim_start()));
        }
    }
    page + ".SH SEE ALSO\n\\fBfullgate\\fR(8), \\fBfullgatectl\\fR(8), /usr/share/doc/fullgate/\n"
}

/// The cells of a table's row; a bar within code does not end one.
fn cells(row: &str) -> Vec<String> {
    let (mut cells, mut in_code) = (vec![String::new()], false);
    for letter in row.trim_end().trim_end_matches('|').chars() {
        in_code ^= letter == '`';
        match cells.last_mut() {
            Some(cell) if letter != '|' || in_code => cell.push(letter),
            _ => cells.push(String::new()),
        }
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

/// The first cell as a term, the second as what it is, the others by the names
/// of their columns.
fn table_row(header: &[String], cells: &[String]) -> String {
    let mut text = String::from(".TP\n");
    for (column, cell) in cells.iter().enumerate() {
        match column {
            0 | 1 => text += &format!("{}\n", inline(cell)),
            _ if cell.is_empty() => {}
            _ => text += &format!(".br\n{}: {}\n", header[column], inline(cell)),
        }
    }
    text
}

/// Code and bold text bold, emphasis in italics, links as their text.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.replace("**", "`");
    while let Some(at) = rest.find(['`', '*', '[']) {
        out += &plain(&rest[..at]);
        let tail = rest[at + 1..].to_owned();
        let (end, font) = match rest.as_bytes()[at] {
            b'`' => (tail.find('`'), Some('B')),
            b'*' => (tail.find('*'), Some('I')),
            _ => (tail.find("]("), None),
        };
        rest = match (end, font) {
            (Some(end), Some(font)) => {
                out += &format!("\\f{font}{}\\fR", plain(&tail[..end]));
                tail[end + 1..].to_owned()
            }
            (Some(end), None) => {
                out += &inline(&tail[..end]);
                let link = &tail[end + 2..];
                link[link.find(')').map_or(link.len(), |close| close + 1)..].to_owned()
            }
            (None, _) => {
                out += &plain(&rest[at..=at]);
                tail
            }
        };
    }
    protect(out + &plain(&rest))
}

/// Without what roff(7) takes for its own.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => out += "\\e",
            '-' => out += "\\-",
            letter if letter.is_ascii() => out.push(letter),
            letter => out += &format!("\\[u{:04X}]", u32::from(letter)),
        }
    }
    protect(out)
}

/// A line that begins like a request is none.
fn protect(text: String) -> String {
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}
