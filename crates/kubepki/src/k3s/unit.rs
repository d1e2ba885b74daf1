//! systemd units and environment files, as far as they start K3s.

use std::path::PathBuf;

/// What a unit and its drop-ins say about the command line and environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// The program and its arguments, of the last `ExecStart=`.
    pub command: Vec<String>,
    /// `Environment=`, in order. May hold a token: not printed.
    pub environment: Vec<(String, String)>,
    /// `EnvironmentFile=`: path, and whether it may be missing.
    pub environment_files: Vec<(PathBuf, bool)>,
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments and variables can carry a token.
        f.debug_struct("Unit")
            .field("program", &self.command.first())
            .field("environment_files", &self.environment_files)
            .finish_non_exhaustive()
    }
}

impl Unit {
    /// Reads a unit file, then its drop-ins in order. `name` (without `.service`) stands for `%N`
    /// and `%p`.
    ///
    /// Quotes, continued lines and the escapes of `systemd.syntax(7)` that occur in K3s's own units
    /// are understood; `$VARIABLE` is left as it is written.
    pub fn parse<'t>(name: &str, texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut unit = Self::default();
        for text in texts {
            let mut in_service = false;
            for line in logical_lines(text) {
                let line = line.trim();
                if let Some(section) = line.strip_prefix('[') {
                    in_service = section.trim_end() == "Service]";
                } else if let (true, Some((key, value))) = (in_service, line.split_once('=')) {
                    unit.set(name, key.trim_end(), value.trim_start());
                }
            }
        }
        unit
    }

    /// The arguments behind `server` or `agent`, and which of the two.
    pub fn arguments(&self) -> Option<(&str, &[String])> {
        let at = self
            .command
            .iter()
            .position(|word| word == "server" || word == "agent")?;
        Some((self.command.get(at)?, self.command.get(at + 1..)?))
    }

    fn set(&mut self, name: &str, key: &str, value: &str) {
        match key {
            "ExecStart" => {
                let value = value.trim_start_matches(['-', '@', ':', '+', '!']);
                self.command = words(value);
            }
            "Environment" if value.is_empty() => self.environment.clear(),
            "Environment" => {
                let pairs = words(value).into_iter();
                let pairs = pairs.filter_map(|word| {
                    word.split_once('=')
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                });
                self.environment.extend(pairs);
            }
            "EnvironmentFile" if value.is_empty() => self.environment_files.clear(),
            "EnvironmentFile" => {
                let (path, optional) = match value.strip_prefix('-') {
                    Some(path) => (path, true),
                    None => (value, false),
                };
                let path = path.replace("%N", name).replace("%p", name);
                self.environment_files.push((PathBuf::from(path), optional));
            }
            _ => {}
        }
    }
}

/// The assignments of a file that `EnvironmentFile=` names.
pub fn environment_file(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in logical_lines(text) {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
        if let Some((name, value)) = line.split_once('=') {
            found.push((name.trim().to_owned(), words(value).join(" ")));
        }
    }
    found
}

/// Lines without comments, those that end in a backslash joined with the next.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut continues = false;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            // Also between continued lines: systemd skips it there.
            continue;
        }
        let (line, more) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some(last) if continues => {
                last.push(' ');
                last.push_str(line);
            }
            _ => lines.push(line.to_owned()),
        }
        continues = more;
    }
    lines
}

/// Words separated by white space, quotes and backslashes resolved.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                // Unknown escapes keep their letter, which is enough for quotes and spaces.
                word.get_or_insert_default().extend(letters.next());
            }
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (_, Some(open)) if letter == open => quote = None,
            (_, None) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
