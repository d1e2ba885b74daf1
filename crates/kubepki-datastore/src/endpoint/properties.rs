use proptest::prelude::*;

use super::*;

fn shown(text: &str) -> String {
    match Endpoint::parse(text) {
        Ok(it) => {
            let tls = match &it {
                Endpoint::Postgres(it) => format!("{it} {it:?} {:?}", it.tls(&Tls::default())),
                Endpoint::Mysql(it) => format!("{it} {it:?} {:?}", it.tls(&Tls::default())),
                _ => String::new(),
            };
            format!("{it} {it:?} {} {tls}", it.describe())
        }
        Err(error) => format!("{error} {error:?}"),
    }
}

proptest! {
    #[test]
    fn nothing_panics(text in "\\PC*") {
        shown(&text);
        for scheme in ["sqlite", "postgres", "mysql", "https"] {
            shown(&format!("{scheme}://{text}"));
        }
    }

    #[test]
    fn nothing_with_the_right_letters_panics(text in "[a-c:/@()?&=%0-9\\[\\]#,.;+]{0,40}") {
        for scheme in ["sqlite", "postgres", "mysql", "http"] {
            shown(&format!("{scheme}://{text}"));
        }
    }

    /// Whatever letters a password has, escaped as it must be or not at all.
    #[test]
    fn passwords_are_never_shown(tail in "[!-~]{0,12}", bare in any::<bool>()) {
        let password = format!("SeCrEt{tail}");
        let escaped: String = match bare {
            true => password.clone(),
            false => password.bytes().map(|byte| format!("%{byte:02X}")).collect(),
        };
        for text in [
            format!("postgres://user:{escaped}@host:5432/kubernetes?sslmode=require"),
            format!("postgres://host/kubernetes?password={escaped}"),
            format!("mysql://user:{password}@tcp(host:3306)/kubernetes"),
            format!("mysql://user:{password}@unix(/run/socket)/kubernetes?tls=true"),
            format!("user:{password}@tcp(host)/kubernetes"),
            format!("https://user:{escaped}@host:2379"),
        ] {
            prop_assert!(!shown(&text).contains("SeCrEt"), "{text}: {}", shown(&text));
        }
        if !bare {
            let Ok(Endpoint::Postgres(it)) =
                Endpoint::parse(&format!("postgres://user:{escaped}@host/db"))
            else {
                panic!("{escaped}");
            };
            prop_assert_eq!(it.password.as_ref().map(|it| it.as_str()), Some(password.as_str()));
        }
        let Ok(Endpoint::Mysql(it)) =
            Endpoint::parse(&format!("mysql://user:{password}@tcp(host)/db"))
        else {
            panic!("{password}");
        };
        prop_assert_eq!(it.password.as_ref().map(|it| it.as_str()), Some(password.as_str()));
    }
}
