// MLflow shows a report in a sandboxed frame, where the browser refuses to follow a link within the page.
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", event => {
    const target = document.getElementById(link.getAttribute("href").slice(1));
    if (!target) return;
    event.preventDefault();
    target.scrollIntoView();
    target.tabIndex = -1;
    target.focus({ preventScroll: true });
  });
}
