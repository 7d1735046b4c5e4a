"""Headless Chromium, Debian's, and its tabs."""

import base64
import hashlib
import os
import pathlib
import shutil
import tempfile

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from certificates import openssl
from conditions import DEADLINE, eventually

CHROMIUM = "/usr/bin/chromium"

# What a test runs in a page is an async function; its value, or what it threw, comes back as JSON.
SCRIPT = """
const [done] = [...arguments].slice(-1)
const given = arguments[0]
const run = async () => { %s }
run().then((value) => done({ value: value ?? null }), (error) => done({ error: `${error.name}: ${error.message}` }))
"""


def public_key_hash(certificate):
    """What `--ignore-certificate-errors-spki-list` takes: the digest of the key that is trusted."""
    key = openssl("x509", "-in", certificate, "-pubkey", "-noout").stdout
    der = base64.b64decode("".join(line for line in key.splitlines() if "-----" not in line))
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


class Browser:
    """One Chromium with a profile of its own, that trusts one self-signed certificate and no other."""

    def __init__(self, certificate):
        assert pathlib.Path(CHROMIUM).exists(), "there is no Chromium: dev/setup --test installs it"
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="relayd-browser-"))
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in [
            "--headless=new", f"--user-data-dir={self.directory}", "--no-first-run", "--disable-dev-shm-usage",
            "--disable-gpu", f"--ignore-certificate-errors-spki-list={public_key_hash(certificate)}",
        ]:
            options.add_argument(argument)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # Chromium has none for root.
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        try:
            # Named, so that nothing is looked for in the network.
            self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        self.process = self.driver.capabilities["goog:processID"]
        self.home = self.driver.current_window_handle
        self.driver.set_script_timeout(DEADLINE)
        self.driver.set_page_load_timeout(DEADLINE)

    def tab(self, url):
        """A new tab that has loaded `url`."""
        self.driver.switch_to.window(self.home)
        self.driver.switch_to.new_window("tab")
        tab = Tab(self.driver, self.driver.current_window_handle)
        tab.open(url)
        return tab

    def close_tabs(self):
        """All but the first, which keeps Chromium open; and forgets what their consoles have said."""
        for handle in self.driver.window_handles:
            if handle != self.home:
                Tab(self.driver, handle).close()
        self.driver.switch_to.window(self.home)
        self.driver.get_log("browser")

    def close(self):
        self.driver.quit()
        eventually(lambda: not pathlib.Path(f"/proc/{self.process}").exists(), "Chromium has ended")
        shutil.rmtree(self.directory, ignore_errors=True)


class Tab:
    def __init__(self, driver, handle):
        self.driver = driver
        self.handle = handle

    def _select(self):
        self.driver.switch_to.window(self.handle)
        return self.driver

    def open(self, url):
        self._select().get(url)

    def run(self, body, **given):
        """Runs the body of an async JavaScript function, which sees `given`; returns what it returns."""
        result = self._select().execute_async_script(SCRIPT % body, given)
        assert "error" not in result, result["error"]
        return result["value"]

    def element(self, selector):
        return self._select().find_element(By.CSS_SELECTOR, selector)

    def shows(self, selector, text):
        """Waits until the element's text has this in it."""
        eventually(lambda: text in self.element(selector).text, f"{selector} shows {text!r}")

    def type(self, selector, text):
        element = self.element(selector)
        element.clear()
        element.send_keys(text)

    def click(self, selector):
        self.element(selector).click()

    def complaints(self):
        """What the consoles of all tabs have that is an error, since the last look."""
        return [entry["message"] for entry in self._select().get_log("browser") if entry["level"] == "SEVERE"]

    def close(self):
        """As a person closes it."""
        self._select().close()

    def crash(self):
        """Ends the page's process, so that it cannot say goodbye."""
        try:
            self._select().execute_cdp_cmd("Page.crash", {})
        except WebDriverException as gone:
            assert "crashed" in str(gone) or "disconnected" in str(gone), gone
