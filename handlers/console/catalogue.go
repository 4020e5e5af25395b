package console

import (
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/consume"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) catalogueArea(r router) {
	r.get("/catalogue", k.catalogue)
}

const (
	cataloguePath = "/catalogue"
	catalogueList = "catalogue" // id of the list
)

func (k *Console) catalogue(c echo.Context, s *domain.Scope) error {
	p := k.page(c, s, "Service catalogue", cataloguePath)
	l := readList(c, s, cataloguePath)
	got, err := s.Catalogue(c.Request().Context(), l.domain())
	if err != nil {
		return err
	}
	v := consume.Catalogue{AccountID: s.Account().ID}
	for _, o := range got.Items {
		v.Rows = append(v.Rows, offeringView(s, o))
	}
	v.List = l.fill(ui.List{ID: catalogueList, Filter: &ui.Filter{}}, ids(got.Items, func(o domain.Offering) string { return o.ServiceID }), got.Prev, got.Next)
	return list(c, v.List, consume.CataloguePage(p, v), consume.CatalogueResults(v))
}

func offeringView(s *domain.Scope, o domain.Offering) consume.Offering {
	v := consume.Offering{
		ServiceID: o.ServiceID, ServiceName: o.ServiceName, Name: o.Name, Description: o.Description, Provider: o.ProviderName, ProviderID: o.ProviderID,
		Own: o.ProviderID == s.Account().ID, Type: strings.ToUpper(o.Type), Zones: plainZones(o.Zones), AutoAccept: o.AutoAccept,
		Endpoints: o.MyEndpoints, Mine: in(s, endpointPath, "?service=", url.QueryEscape(o.ServiceID)),
	}
	if s.Can(domain.WriteConsume) {
		v.Connect = in(s, endpointPath, "/new?service=", url.QueryEscape(o.ServiceID))
	}
	return v
}
