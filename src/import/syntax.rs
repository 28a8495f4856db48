//! The block syntax of `keepalived.conf`: statements of words, one a line, that
//! may carry a block in braces. Any text has a reading; what does not fit is a
//! note.

use super::Draft;

/// Blocks within blocks at most; keepalived itself needs five.
const DEPTH_MAX: usize = 16;

/// One statement.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Statement {
    pub(super) line: usize,
    /// At least one.
    pub(super) words: Vec<String>,
    /// The statements in its braces, where it has any.
    pub(super) block: Option<Vec<Statement>>,
}

impl Statement {
    /// Its first word.
    pub(super) fn key(&self) -> &str {
        self.word(0)
    }

    /// A word; empty where there are fewer.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    pub(super) fn children(&self) -> &[Statement] {
        self.block.as_deref().unwrap_or_default()
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Open,
    Close,
    NewLine,
}

/// All statements of a file.
pub(super) fn statements(text: &str, draft: &mut Draft) -> Vec<Statement> {
    let mut reader = Reader {
        finished: vec![Vec::new()],
        open: Vec::new(),
        current: None,
    };
    for (line, text) in (1..).zip(text.lines()) {
        for token in tokens(text) {
            reader.take(line, token, draft);
        }
        reader.take(line, Token::NewLine, draft);
    }
    reader.end(draft)
}

/// Statements under way, without recursion: a file may nest as it likes.
struct Reader {
    /// What is complete, by depth.
    finished: Vec<Vec<Statement>>,
    /// Those whose blocks are open.
    open: Vec<Statement>,
    /// That whose words are being read; a block may still follow.
    current: Option<(Statement, bool)>,
}

impl Reader {
    fn take(&mut self, line: usize, token: Token, draft: &mut Draft) {
        match token {
            Token::Word(word) => {
                if self.current.as_ref().is_some_and(|(_, ended)| *ended) {
                    self.close_statement();
                }
                let (statement, _) = self.current.get_or_insert_with(|| {
                    let statement = Statement {
                        line,
                        ..Statement::default()
                    };
                    (statement, false)
                });
                statement.words.push(word);
            }
            Token::NewLine => {
                if let Some((_, ended)) = &mut self.current {
                    *ended = true;
                }
            }
            Token::Open => match self.current.take() {
                Some((statement, _)) if self.open.len() < DEPTH_MAX => {
                    self.open.push(statement);
                    self.finished.push(Vec::new());
                }
                Some((statement, _)) => {
                    draft.note(line, "a block is nested too deeply; it is left out");
                    self.current = Some((statement, true));
                }
                None => draft.note(line, "\"{\" follows nothing"),
            },
            Token::Close => {
                self.close_statement();
                if !self.close_block() {
                    draft.note(line, "\"}\" closes nothing");
                }
            }
        }
    }

    fn close_statement(&mut self) {
        if let (Some((statement, _)), Some(level)) = (self.current.take(), self.finished.last_mut())
        {
            level.push(statement);
        }
    }

    fn close_block(&mut self) -> bool {
        let Some(mut statement) = self.open.pop() else {
            return false;
        };
        statement.block = self.finished.pop();
        if let Some(level) = self.finished.last_mut() {
            level.push(statement);
        }
        true
    }

    fn end(mut self, draft: &mut Draft) -> Vec<Statement> {
        self.close_statement();
        while let Some(innermost) = self.open.last() {
            let text = format!("the block of {:?} is not closed", innermost.key());
            draft.note(innermost.line, text);
            self.close_block();
        }
        self.finished.pop().unwrap_or_default()
    }
}

/// The tokens of a line, without its comment.
fn tokens(line: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' | '!' => break,
            '{' | '}' => {
                tokens.push(if first == '{' {
                    Token::Open
                } else {
                    Token::Close
                });
                1
            }
            '"' => {
                let quoted = &rest[1..];
                let end = quoted.find('"').unwrap_or(quoted.len());
                tokens.push(Token::Word(quoted[..end].to_owned()));
                (end + 2).min(rest.len())
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || "{}\"".contains(c);
                let end = rest.find(ends).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                end
            }
        };
        rest = rest[length..].trim_start();
    }
    tokens
}
