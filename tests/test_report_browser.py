"""The page in a real browser: sort, filter, tabs, provenance, plots, phone, dark mode, and that nothing is loaded.

Where there is no browser the tests are skipped, which the summary counts; with CI_REQUIRE_BROWSER=1 they fail.
"""

import json
import os
import shutil

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmengine')
REQUIRED = os.environ.get('CI_REQUIRE_BROWSER', '') not in ('', '0')
if not REQUIRED:
    pytest.importorskip('selenium', reason='selenium is not installed (requirements/dev.txt)')

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.common.selenium_manager import SeleniumManager  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from test_report import HOSTILE, PUBLISHED, hostile_records, mini_records  # noqa: E402

from lisa_backbone.leaderboard.report import report  # noqa: E402
from lisa_backbone.records import read_records  # noqa: E402


def find_browser():
    """A Chromium and its driver: on PATH, else where Selenium's manager knows of them; nothing is downloaded."""
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
    driver = shutil.which('chromedriver')
    if browser and driver:
        return browser, driver
    try:
        paths = SeleniumManager().binary_paths(['--browser', 'chrome', '--offline', '--avoid-stats'])
    except (WebDriverException, OSError):
        return None, None
    return paths['browser_path'], paths['driver_path']


BROWSER, DRIVER = find_browser()
LACKING = 'no chromium and chromedriver, on PATH or in the cache of Selenium (Debian: chromium, chromium-driver)'
pytestmark = pytest.mark.skipif(not ((BROWSER and DRIVER) or REQUIRED), reason=LACKING)

FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync']
FLAGS += ['--disable-background-networking', '--disable-component-update', '--disable-dev-shm-usage']


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if not (BROWSER and DRIVER):
        pytest.fail(f'CI_REQUIRE_BROWSER is set, and there is {LACKING}')
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f'--user-data-dir={tmp_path_factory.mktemp("profile")}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    path = report([*read_records(PUBLISHED), *mini_records()], tmp_path_factory.mktemp('page'))[0]
    return path.as_uri()


def emulate(browser, width=1280, height=900, dark=False):
    metrics = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': width < 500}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [scheme]})


@pytest.fixture
def page(browser, address):
    """The page as it opens on a desktop; what went wrong in its script fails the test."""
    emulate(browser)
    browser.get('about:blank')
    browser.get(address)
    yield browser
    assert [entry['message'] for entry in browser.get_log('browser')] == []


def one(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def shown(page, selector):
    script = 'return [...document.querySelectorAll(arguments[0])].filter((found) => found.checkVisibility())'
    return page.execute_script(script, selector)


def texts(page, selector):
    """What is shown of some elements, line by line."""
    return page.execute_script('return arguments[0].map((found) => found.innerText.trim())', shown(page, selector))


def models(page, status='published'):
    return texts(page, f'#{status} tbody th')


def heads(page, status='published'):
    return {found.text.split('\n')[-1]: found for found in shown(page, f'#{status} thead th[rowspan] .sort')}


def column(page, title, metric):
    """The button that sorts by a metric of a task."""
    group = next(head for head in shown(page, 'thead th.task') if head.text.split('\n')[0] == title)
    number = group.get_attribute('data-group')
    found = shown(page, f'thead tr:last-child th[data-group="{number}"] .sort')
    return next(button for button in found if button.text.strip() == metric)


def facts(page):
    """What the open dialog says."""
    names, texts = (page.find_elements(By.CSS_SELECTOR, f'dialog[open] {tag}') for tag in ('dt', 'dd'))
    return {name.text: text.text for name, text in zip(names, texts, strict=True)}


# ------------------------------------------------------------------------------------------------------ tables and tabs


def test_sort_by_a_column(page):
    button = column(page, 'ADE20K UPerNet 160k', 'mIoU')
    button.click()
    assert models(page)[:4] == ['TransNeXt-Tiny', 'VMamba-S (s2l15)', 'BiFormer-S', 'RMT-S']
    assert models(page)[-1] == 'SlowFast-R50 8x8'  # those without a figure are last
    assert shown(page, 'th[aria-sort=descending]') == [button.find_element(By.XPATH, '..')]
    assert one(page, '#published .state').text == (
        '28 of 28 models; sorted by ADE20K UPerNet 160k, mIoU, highest first'
    )
    button.click()
    assert models(page)[:3] == ['ResNet-50', 'DeiT-S', 'Swin-T']
    assert models(page)[-1] == 'SlowFast-R50 8x8'
    heads(page)['Params, M'].click()
    assert models(page)[:2] == ['UniFormer-S (h14)', 'DeiT-S']
    assert models(page)[-1] == 'TimeSformer'
    heads(page)['Model'].send_keys(Keys.ENTER)
    assert models(page)[:2] == ['BiFormer-S', 'ConvNeXt-B']


def test_filter_by_name_and_task(page):
    box = one(page, '#published .filter')
    box.send_keys('SWIN t')
    assert models(page) == ['Swin-T', 'FLatten-Swin-T', 'Video Swin-T']
    assert one(page, '#published .state').text == '3 of 28 models'
    box.clear()
    box.send_keys('no such model')
    assert models(page) == []
    box.send_keys(Keys.CONTROL, 'a')
    box.send_keys(Keys.DELETE)
    Select(one(page, '#published .task')).select_by_visible_text('Something-Something-V2')
    assert len(models(page)) == 7
    assert len(shown(page, '#published .figure')) == 7
    assert texts(page, '#published th.task') == [  # four under one protocol, and three each under its own
        'Something-Something-V2',
        'Something-Something-V2\npretraining Kinetics-400',
        'Something-Something-V2\nframes 16',
        'Something-Something-V2\nframes 16, frame interval 8',
    ]


def test_protocols_of_one_model_open_with_a_box(page):
    assert len(shown(page, '#published .figure')) == 116
    assert one(page, '#published .check').text.strip() == 'also 7 protocols of one model each'
    one(page, '#published .alone').click()
    assert len(shown(page, '#published .figure')) == 125
    notes = texts(page, '#published th.task')
    assert 'COCO Mask R-CNN 1x\nquoted by VMamba' in notes
    assert 'Kinetics-400\nviews 4, frames 16' in notes


def test_kinds_have_tabs(page):
    assert [tab.text.split('\n')[0].rstrip(' 0123456789') for tab in shown(page, '[role=tab]')] == [
        'Published',
        'Reproduced here',
        'Mini sets',
    ]
    one(page, '#tab-mini').click()
    assert [panel.get_attribute('id') for panel in shown(page, '[role=tabpanel]')] == ['mini']
    assert models(page, 'mini') == ['LiSA pico, A', 'LiSA pico, B', 'LiSA pico, C']
    assert shown(page, '#mini .figure')[0].text.startswith('47.0 ± 1.0 (3)')
    assert texts(page, '#mini .mark') == ['', '', '', '≈', '≈', '', '']
    assert 'only models with a result in every task are ranked' in one(page, '#mini .notes').text
    page.refresh()  # the address keeps the tab
    assert [panel.get_attribute('id') for panel in shown(page, '[role=tabpanel]')] == ['mini']
    one(page, '#tab-mini').send_keys(Keys.ARROW_LEFT)
    assert page.switch_to.active_element.get_attribute('id') == 'tab-reproduced'
    assert one(page, '#reproduced').text.endswith('There are no results of this kind yet.')


# ------------------------------------------------------------------------------------------------ provenance and plots


def test_provenance_opens_by_mouse_and_by_keyboard(page):
    button = shown(page, '#published .figure')[0]
    button.click()
    assert one(page, 'dialog[open] h2').text == 'ResNet-50, COCO Mask R-CNN 1x'
    assert one(page, 'dialog .value').text == 'box AP 38.2'
    assert facts(page)['Source'].startswith('mmdet 3.3.0 configs metafile.yml')
    assert facts(page)['Protocol'] == 'detector Mask R-CNN, schedule 1x'
    one(page, 'dialog .close').click()
    assert not shown(page, 'dialog')

    one(page, '#tab-mini').click()
    button = shown(page, '#mini .figure')[3]
    button.send_keys(Keys.ENTER)
    assert one(page, 'dialog[open] .value').text == 'box AP 46.6 ± 1.00'
    assert facts(page)['Config digest'] == 'c' * 64
    assert facts(page)['Beside the best'].endswith('inside the noise over seeds')
    rows = [[cell.text for cell in row.find_elements(By.TAG_NAME, 'td')] for row in shown(page, 'dialog tbody tr')]
    assert [row[:3] for row in rows] == [['0', '47.60', '100 s'], ['1', '46.60', '101 s'], ['2', '45.60', '102 s']]
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not shown(page, 'dialog')
    assert page.switch_to.active_element == button  # where it was left


def test_plot_follows_its_menus_the_filter_and_the_keyboard(page):
    figures, axes = (Select(one(page, f'#published .{name}')) for name in ('metric', 'axis'))
    assert [option.text for option in axes.options] == [
        'Parameters of the backbone (19)',
        'MACs of the backbone for an input of 224 x 224 (19)',
    ]
    figures.select_by_visible_text('Kinetics-400 (views as published), top-1')
    assert [option.text for option in axes.options][1:] == [
        'MACs of the backbone for an input of 224 x 224 (4)',
        'MACs of the backbone for a view of a clip, of the size its source took (5)',
    ]
    axes.select_by_index(2)
    points = shown(page, '#published .point')
    assert [point.get_attribute('aria-label') for point in points] == [
        'TSM-R50 (8f), 74.1 %, 32.9 G',
        'MViTv2-S, 81.0 %, 64 G',
        'SlowFast-R50 8x8, 77.0 %, 66.1 G',
        'Video Swin-T, 78.8 %, 87.9 G',
        'TimeSformer, 77.9 %, 196 G',
    ]
    assert [point.get_attribute('tabindex') for point in points] == ['0', '-1', '-1', '-1', '-1']
    page.execute_script('arguments[0].focus()', points[0])
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert one(page, '#published .tip').text.splitlines() == ['MViTv2-S', '81.0 %', '64 G']
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert one(page, 'dialog[open] h2').text == 'MViTv2-S, Kinetics-400'
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    one(page, '#published .filter').send_keys('swin')
    assert [point.get_attribute('aria-label') for point in shown(page, '#published .point:not(.faint)')] == [
        'Video Swin-T, 78.8 %, 87.9 G'
    ]


def test_plot_of_measured_figures_has_bars(page):
    one(page, '#tab-mini').click()
    assert len(shown(page, '#mini .point')) == len(shown(page, '#mini .bar')) == 3
    dots = {
        dot.get_attribute('aria-label').split(',')[1].strip(): dot.location['y'] for dot in shown(page, '#mini .point')
    }
    assert dots['A'] < dots['C']  # the better stands higher
    bars = [bar.size['height'] for bar in shown(page, '#mini .bar')]
    assert max(bars) - min(bars) < 1  # all three have a deviation of 1.0


# ------------------------------------------------------------------------------------ phones, dark mode, nothing loaded


@pytest.mark.parametrize('status', ['published', 'mini'])
def test_a_phone_scrolls_the_table_and_not_the_page(page, status):
    emulate(page, 390, 844)
    one(page, f'#tab-{status}').click()
    width = page.execute_script('return [document.documentElement.scrollWidth, window.innerWidth]')
    assert width == [390, 390]
    box = one(page, f'#{status} .scroll')
    page.execute_script('arguments[0].scrollLeft = 10000', box)
    assert page.execute_script('return arguments[0].scrollLeft', box) > 100
    name, last = (
        one(page, f'#{status} tbody th'),
        page.find_elements(By.CSS_SELECTOR, f'#{status} tbody tr:first-child td')[-1],
    )
    left = page.execute_script('return arguments[0].getBoundingClientRect().left', box)
    assert page.execute_script('return arguments[0].getBoundingClientRect().left', name) == pytest.approx(left, abs=2)
    assert page.execute_script('return arguments[0].getBoundingClientRect().right', last) < 390
    plot = one(page, f'#{status} .plot svg')
    assert 300 < plot.size['width'] <= 390
    page.execute_script('arguments[0].click()', shown(page, f'#{status} .figure')[0])
    dialog = one(page, 'dialog[open]').rect
    assert dialog['x'] >= 0
    assert dialog['x'] + dialog['width'] <= 390


def luminance(page, selector, name):
    text = one(page, selector).value_of_css_property(name)
    red, green, blue = (int(part) for part in text[text.index('(') + 1 : -1].split(',')[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_dark_mode(page):
    assert luminance(page, 'body', 'background-color') > 0.9
    assert luminance(page, 'body', 'color') < 0.2
    emulate(page, dark=True)
    for selector in ('body', '#published tbody th', '#published thead th', 'dialog'):
        assert luminance(page, selector, 'background-color') < 0.2, selector
    for selector in ('body', '#published .figure', '#published .sort', '.lead'):
        assert luminance(page, selector, 'color') > 0.5, selector


def test_nothing_is_loaded(page, address):
    page.get_log('performance')  # of the browser's own pages
    page.refresh()
    for tab in ('mini', 'reproduced', 'published'):
        one(page, f'#tab-{tab}').click()
    shown(page, '#published .figure')[0].click()
    assert page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    messages = [json.loads(entry['message'])['message'] for entry in page.get_log('performance')]
    asked = [m['params']['request']['url'] for m in messages if m['method'] == 'Network.requestWillBeSent']
    assert set(asked) == {address}


def test_hostile_names_are_only_text(browser, tmp_path):
    emulate(browser)
    browser.get(report(hostile_records(), tmp_path)[0].as_uri())
    browser.find_element(By.ID, 'tab-mini').click()
    assert models(browser, 'mini') == [HOSTILE]
    shown(browser, '#mini .figure')[0].click()
    assert HOSTILE in one(browser, 'dialog[open] h2').text
    assert facts(browser)['Overrides'].startswith('</script><img src=x onerror=alert(1)>')
    assert browser.find_elements(By.TAG_NAME, 'img') == []
    assert len(browser.find_elements(By.TAG_NAME, 'script')) == 2
    assert [entry['message'] for entry in browser.get_log('browser')] == []
