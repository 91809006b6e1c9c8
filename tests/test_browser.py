"""What tests/browser.py reports of a page that does everything wrong."""

from tests.browser import NARROW_PX, overflow_px, violations, visit

_WRONG = """<!doctype html><html><head><title>wrong</title></head><body>
<p style="color: #ccc; background: #fff">pale</p><img src="data:image/gif;base64,">
<div style="width: 900px">wide</div><script src="http://example.com/a.js"></script>
<script>console.error("loud"); throw new Error("thrown")</script>
<p id="scheme"></p><script>document.querySelector("#scheme").textContent =
matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"</script>
</body></html>"""


def test_browser_reports_what_is_wrong_with_a_page_and_lets_no_request_out(
    browser, tmp_path
):
    (tmp_path / "wrong.html").write_text(_WRONG)
    address = (tmp_path / "wrong.html").as_uri()
    with visit(browser, address, scheme="dark", width=NARROW_PX) as visited:
        assert visited.requests == [address, "http://example.com/a.js"]
        assert visited.refused == ["http://example.com/a.js"]
        errors = " ".join(visited.errors)
        assert "loud" in errors and "thrown" in errors
        found = " ".join(violations(visited.page))
        for rule in ("color-contrast", "image-alt", "html-has-lang"):
            assert rule in found
        assert overflow_px(visited.page) > 400
        assert visited.page.inner_text("#scheme") == "dark"
    with visit(browser, address, javascript=False) as visited:
        assert not visited.errors and not visited.refused
        assert visited.page.text_content("#scheme") == ""
