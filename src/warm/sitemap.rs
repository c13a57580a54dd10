//! Sitemaps (sitemaps.org, protocol 0.9): the URLs of pages, or of further sitemaps. Pure.

use quick_xml::Reader;
use quick_xml::events::Event;

/// What a sitemap names.
#[derive(Debug, PartialEq, Eq)]
pub struct Sitemap {
    /// It is an index: the URLs are those of further sitemaps.
    pub is_index: bool,
    pub urls: Vec<String>,
}

/// Reads a sitemap or an index of sitemaps; at most `most` URLs.
///
/// # Errors
///
/// It is neither.
pub fn read(xml: &str, most: usize) -> Result<Sitemap, String> {
    let mut reader = Reader::from_str(xml);
    let mut sitemap = Sitemap { is_index: false, urls: Vec::new() };
    // Names of the open elements, without their prefixes.
    let mut open: Vec<String> = Vec::new();
    let (mut url, mut is_sitemap) = (String::new(), false);
    loop {
        let event = reader.read_event().map_err(|error| format!("it is not XML: {error}"))?;
        match event {
            Event::Start(element) => {
                let name = element.local_name().as_ref().to_owned();
                if open.is_empty() {
                    sitemap.is_index = name == "sitemapindex";
                    is_sitemap = sitemap.is_index || name == "urlset";
                }
                if open.len() >= DEPTH {
                    return Err("its elements are nested too deeply".to_owned());
                }
                open.push(name);
            }
            Event::Text(text) if is_location(&open) => {
                url.push_str(&text);
            }
            Event::CData(text) if is_location(&open) => {
                url.push_str(&text);
            }
            Event::GeneralRef(reference) if is_location(&open) => {
                let escaped = format!("&{};", &*reference);
                url.push_str(
                    &quick_xml::escape::unescape(&escaped).map_err(|error| format!("it is not XML: {error}"))?,
                );
            }
            Event::End(_) => {
                if is_location(&open) && sitemap.urls.len() < most {
                    sitemap.urls.push(url.trim().to_owned());
                }
                url.clear();
                open.pop();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if is_sitemap {
        Ok(sitemap)
    } else {
        Err("it is no sitemap: its root is neither urlset nor sitemapindex".to_owned())
    }
}

/// Most elements within one another.
const DEPTH: usize = 16;

fn is_location(open: &[String]) -> bool {
    matches!(open, [_, of, loc] if loc == "loc" && (of == "url" || of == "sitemap"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_indexes_are_told_apart() {
        let pages = r#"<?xml version="1.0" encoding="UTF-8"?>
            <urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="x">
              <url><loc> https://h/a?b=1&amp;c=2 </loc><lastmod>2026-01-01</lastmod>
                <image:image><image:loc>https://h/image.png</image:loc></image:image></url>
              <url><loc><![CDATA[https://h/b]]></loc></url>
            </urlset>"#;
        let urls = ["https://h/a?b=1&c=2", "https://h/b"].map(str::to_owned).to_vec();
        assert_eq!(read(pages, 10), Ok(Sitemap { is_index: false, urls }));
        let index =
            "<s:sitemapindex xmlns:s='x'><s:sitemap><s:loc>https://h/1.xml</s:loc></s:sitemap></s:sitemapindex>";
        let urls = vec!["https://h/1.xml".to_owned()];
        assert_eq!(read(index, 10), Ok(Sitemap { is_index: true, urls }));
    }

    #[test]
    fn urls_are_bounded_and_other_documents_refused() {
        let pages = format!("<urlset>{}</urlset>", "<url><loc>/a</loc></url>".repeat(50));
        assert_eq!(read(&pages, 10).unwrap().urls.len(), 10);
        for text in ["", "{}", "<html></html>", "<urlset><url></urlset>", &"<urlset>".repeat(100)] {
            assert!(read(text, 10).is_err(), "{text}");
        }
    }
}
