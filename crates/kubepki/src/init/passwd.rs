//! `cred/passwd`: who may log in with which password (K3s `pkg/passwd`).

use zeroize::Zeroizing;

/// The rows of a passwd file. The passwords make it secret: it has no Debug.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Passwd {
    rows: Vec<Row>,
}

#[derive(Clone, PartialEq, Eq)]
struct Row {
    password: Zeroizing<String>,
    user: String,
    /// User id, groups and whatever follows.
    rest: Vec<String>,
}

/// A passwd file that K3s could not read either. Says where, never what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row}: {problem}")]
pub struct PasswdError {
    /// Which row, from 1.
    pub row: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// The user that servers join as, and its group.
pub const SERVER: (&str, &str) = ("server", "k3s:server");
/// The user that agents join as, and its group.
pub const NODE: (&str, &str) = ("node", "k3s:agent");

impl Passwd {
    /// Reads the file: CSV as Go's `encoding/csv` has it, password, user, user id, groups.
    ///
    /// # Errors
    ///
    /// [`PasswdError`] for a row without a user, or quotes that do not close.
    pub fn parse(text: &str) -> Result<Self, PasswdError> {
        let mut rows = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let row = rows.len() + 1;
            let problem = |problem| PasswdError { row, problem };
            let (fields, after) = record(rest).map_err(problem)?;
            rest = after;
            let mut fields = fields.into_iter();
            let (password, user) = match (fields.next(), fields.next()) {
                // An empty line is no row.
                (Some(only), None) if only.is_empty() => continue,
                (Some(password), Some(user)) => (password, user),
                _ => return Err(problem("it has no user")),
            };
            rows.push(Row {
                password,
                user: user.to_string(),
                rest: fields.map(|field| field.to_string()).collect(),
            });
        }
        Ok(Self { rows })
    }

    /// The password of `user`.
    pub fn password(&self, user: &str) -> Option<&Zeroizing<String>> {
        self.rows
            .iter()
            .find(|row| row.user == user)
            .map(|row| &row.password)
    }

    /// Every user, in order.
    pub fn users(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row.user.as_str()).collect()
    }

    /// The groups of `user`: the fourth column, a list with commas.
    pub fn groups(&self, user: &str) -> Vec<String> {
        let row = self.rows.iter().find(|row| row.user == user);
        let list = row.and_then(|row| row.rest.get(1));
        list.into_iter()
            .flat_map(|list| list.split(','))
            .map(str::trim)
            .filter(|group| !group.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Adds `user` with `password` unless there is one of that name.
    pub fn ensure(&mut self, (user, group): (&str, &str), password: &Zeroizing<String>) {
        if self.password(user).is_none() {
            self.rows.push(Row {
                password: password.clone(),
                user: user.to_owned(),
                rest: vec![user.to_owned(), group.to_owned()],
            });
        }
    }

    /// Gives `user` another password. `false` if there is no such user.
    pub fn replace(&mut self, user: &str, password: &Zeroizing<String>) -> bool {
        let row = self.rows.iter_mut().find(|row| row.user == user);
        let found = row.map(|row| row.password = password.clone());
        found.is_some()
    }

    /// Whether both hold the same rows. K3s writes them in an order of chance.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let holds = |all: &Self, row: &Row| all.rows.contains(row);
        self.rows.iter().all(|row| holds(other, row))
            && other.rows.iter().all(|row| holds(self, row))
    }

    /// The file's text. Rows stay in their order, which K3s does not care for.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        for row in &self.rows {
            push_field(&mut text, &row.password);
            for field in std::iter::once(&row.user).chain(&row.rest) {
                text.push(',');
                push_field(&mut text, field);
            }
            text.push('\n');
        }
        text
    }
}

/// As Go's `csv.Writer` quotes.
fn push_field(text: &mut String, field: &str) {
    let quoted = field == r"\."
        || field.contains([',', '"', '\r', '\n'])
        || field.starts_with(char::is_whitespace);
    if !quoted {
        text.push_str(field);
        return;
    }
    text.push('"');
    for letter in field.chars() {
        if letter == '"' {
            text.push('"');
        }
        text.push(letter);
    }
    text.push('"');
}

type Fields = Vec<Zeroizing<String>>;

/// The first record of `text`, and what follows it.
fn record(text: &str) -> Result<(Fields, &str), &'static str> {
    let mut fields = Fields::new();
    let mut rest = text;
    loop {
        let (field, after) = field(rest)?;
        fields.push(field);
        if let Some(more) = after.strip_prefix(',') {
            rest = more;
            continue;
        }
        let after = after.strip_prefix('\r').unwrap_or(after);
        return match after.strip_prefix('\n') {
            Some(next) => Ok((fields, next)),
            None if after.is_empty() => Ok((fields, after)),
            None => Err("text follows a closing quote"),
        };
    }
}

fn field(text: &str) -> Result<(Zeroizing<String>, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n']).unwrap_or(text.len());
        let (field, after) = text.split_at(end);
        if field.contains('"') {
            return Err("a quote stands inside a field that does not begin with one");
        }
        // A line end of two characters belongs to the record, not to its last field.
        let field = field.strip_suffix('\r').unwrap_or(field);
        return Ok((Zeroizing::new(field.to_owned()), after));
    };
    let mut field = Zeroizing::new(String::new());
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn password(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn writes_what_k3s_writes() {
        let mut passwd = Passwd::default();
        passwd.ensure(SERVER, &password("fixture-token-0123456789abcdef"));
        passwd.ensure(NODE, &password("fixture-token-0123456789abcdef"));
        let expected = "fixture-token-0123456789abcdef,server,server,k3s:server\n\
                        fixture-token-0123456789abcdef,node,node,k3s:agent\n";
        assert_eq!(*passwd.to_text(), expected);
        assert!(Passwd::parse(expected).unwrap() == passwd);
    }

    #[test]
    fn a_present_user_keeps_its_password_and_groups() {
        let text = "old,node,node,\"k3s:agent,others\"\n";
        let mut passwd = Passwd::parse(text).unwrap();
        passwd.ensure(NODE, &password("new"));
        passwd.ensure(SERVER, &password("new"));
        assert_eq!(
            *passwd.to_text(),
            format!("{text}new,server,server,k3s:server\n")
        );
    }

    #[test]
    fn refuses_rows_that_say_nothing() {
        let error = |text| Passwd::parse(text).err().map(|error| error.row);
        assert_eq!(error("pw\n"), Some(1));
        assert_eq!(error("pw,node\n\"open,server\n"), Some(2));
        assert_eq!(error("pw,no\"de\n"), Some(1));
        assert_eq!(error("\"pw\"x,node\n"), Some(1));
        assert_eq!(error("\n\npw,node\r\n"), None);
    }

    proptest! {
        #[test]
        fn any_password_survives(text in "\\PC{1,40}", odd in "[\",\\\\. \n\r]{0,6}") {
            let secret = password(&format!("{odd}{text}"));
            let mut passwd = Passwd::default();
            passwd.ensure(SERVER, &secret);
            let read = Passwd::parse(&passwd.to_text()).unwrap();
            prop_assert_eq!(read.password("server"), Some(&secret));
        }
    }
}
